"""What the kernel confines a process with. Nothing is imported here: the fork server takes only what it needs."""
