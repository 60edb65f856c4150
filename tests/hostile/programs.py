# ruff: noqa: E501 (programs as they are, one per line)
"""Hostile candidates for the sandbox: {name: (source, the verdict's result as a regular expression)}.

A program that tries to reach outside collects what worked in `reached` and returns "denied" only if that is
empty; the tests' message carries what it returned, so that "failed: denied" shows that every attempt failed.
TOKEN stands for a name unique to the run, OUTSIDE for a directory that holds a file `secret`, PARENT for the
process id of the test run, PORT for a TCP and UDP port that listens.
"""

TESTS = "result = f(1)\nassert result == 'right', result"
"""The tests of every program here that names no others."""

_PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
reached = []
def attempt(name, action):
    try:
        value = action()
    except BaseException:
        return
    if value is not False:
        reached.append(name)
def call(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) >= 0
def verdict():
    return "reached: " + ", ".join(reached) if reached else "denied"
"""


def _attempts(body: str) -> tuple[str, str]:
    """A program whose attempts must all be denied."""
    return _PRELUDE + "def f(x):\n" + "\n".join("    " + line for line in body.splitlines()) + (
        "\n    return verdict()\n"
    ), "failed: denied"


_ATTEMPTS = {
    "write files": """
for directory in ["OUTSIDE", "/tmp", "/var/tmp", "/dev/shm", "/root", ".", "/", os.path.dirname(os.__file__), "REPO"]:
    path = os.path.join(directory, "TOKEN")
    attempt("open " + path, lambda: open(path, "w"))
    attempt("os.open " + path, lambda: os.open(path, os.O_CREAT | os.O_WRONLY))
    attempt("creat " + path, lambda: libc.creat(path.encode(), 0o644) >= 0)
    attempt("mkdir " + path, lambda: os.mkdir(path))
    attempt("symlink " + path, lambda: os.symlink("/etc", path))
    attempt("fifo " + path, lambda: os.mkfifo(path))
    attempt("link " + path, lambda: os.link("OUTSIDE/secret", path))
    attempt("O_TMPFILE " + path, lambda: os.open(directory, os.O_TMPFILE | os.O_RDWR))
""",
    "change files": """
for path in ["OUTSIDE/secret", os.__file__]:
    attempt("append " + path, lambda: open(path, "a"))
    attempt("r+ " + path, lambda: open(path, "r+"))
    attempt("truncate " + path, lambda: os.truncate(path, 0))
    attempt("O_TRUNC " + path, lambda: os.open(path, os.O_RDONLY | os.O_TRUNC))
    attempt("unlink " + path, lambda: os.unlink(path))
    attempt("rename " + path, lambda: os.rename(path, path + "TOKEN"))
    attempt("chmod " + path, lambda: os.chmod(path, 0o777))
    attempt("chown " + path, lambda: os.chown(path, 0, 0))
    attempt("utime " + path, lambda: os.utime(path))
    attempt("setxattr " + path, lambda: os.setxattr(path, "user.x", b"1"))
attempt("rmdir", lambda: os.rmdir("OUTSIDE"))
""",
    "read files": """
import mmap
for path in ["OUTSIDE/secret", "/etc/passwd", "/etc/shadow", "/etc/hostname", "REPO/pyproject.toml",
             "/proc/self/root/OUTSIDE/secret", "/proc/self/cwd/OUTSIDE/secret", "/usr/lib/../../OUTSIDE/secret"]:
    attempt("open " + path, lambda: open(path).read())
    attempt("os.open " + path, lambda: os.open(path, os.O_RDONLY))
    attempt("fopen " + path, lambda: libc.fopen(path.encode(), b"r") != 0)
    attempt("import " + path, lambda: __import__("runpy").run_path(path))
for path in ["OUTSIDE", "/", "/root", "/tmp", "/home", "."]:
    attempt("listdir " + path, lambda: os.listdir(path))
os.chdir("OUTSIDE")
attempt("relative", lambda: open("secret"))
""",
    "read proc": """
for pid in ["self", "thread-self", str(os.getpid()), str(os.getppid()), "PARENT", "1"]:
    for name in ["environ", "mem", "maps", "cmdline", "status", "stat"]:
        attempt(pid + " " + name, lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ["fd", "task", "root", "map_files"]:
        attempt(pid + " " + name, lambda: os.listdir(f"/proc/{pid}/{name}"))
attempt("proc", lambda: os.listdir("/proc"))
""",
    "environment": """
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
held, index = [], 0
while environ[index]:
    held.append(environ[index].decode())
    index += 1
held += [f"{k}={v}" for k, v in os.environ.items()]
attempt("key", lambda: any("TOKEN" in item or "API_KEY" in item for item in held))
""",
    "tcp": """
import socket, urllib.request
attempt("socket", lambda: socket.socket())
attempt("connect", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
attempt("url", lambda: urllib.request.urlopen("http://127.0.0.1:PORT/", timeout=1))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("raw call", lambda: call(41, 2, 1, 0))
""",
    "udp": """
import socket
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT)))
attempt("udp6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
attempt("netlink", lambda: socket.socket(16, 3, 0))
attempt("packet", lambda: socket.socket(17, 3, 0))
attempt("vsock", lambda: socket.socket(40, 1, 0))
attempt("name", lambda: socket.getaddrinfo("example.com", 80))
""",
    "unix sockets": """
import socket
attempt("path", lambda: socket.socket(socket.AF_UNIX).connect("OUTSIDE/socket"))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0TOKEN"))
attempt("bind", lambda: socket.socket(socket.AF_UNIX).bind("\\0TOKEN-mine"))
one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt("sendto", lambda: one.sendto(b"x", "\\0TOKEN-datagram"))
attempt("sendmsg", lambda: one.sendmsg([b"x"], [], 0, "\\0TOKEN-datagram"))
attempt("reconnect", lambda: one.connect("\\0TOKEN-datagram"))
attempt("inet pair", lambda: socket.socketpair(socket.AF_INET))
""",
    "fork bomb": """
import multiprocessing
for _ in range(1000):
    attempt("fork", os.fork)
attempt("vfork", lambda: call(58))
attempt("clone", lambda: call(56, 17, 0, 0, 0, 0))
attempt("clone3", lambda: libc.syscall(435, (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17), 64) >= 0)
attempt("multiprocessing", lambda: multiprocessing.get_context("fork").Process(target=f).start())
attempt("pty", lambda: __import__("pty").fork())
""",
    "programs": """
import subprocess
attempt("system", lambda: os.system("true") == 0)
attempt("popen", lambda: os.popen("true"))
attempt("subprocess", lambda: subprocess.run(["/bin/true"]))
attempt("spawn", lambda: os.posix_spawn("/bin/true", ["true"], {}))
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("exec itself", lambda: os.execv(sys.executable, [sys.executable, "-c", "pass"]))
""",
    "thread bomb": """
import threading, time
for _ in range(1000):
    attempt("thread", lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start())
attempt("raw", lambda: call(56, 0x50F00, 0, 0, 0, 0))
""",
    "daemon": """
def detach():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open("OUTSIDE/TOKEN", "w")
        os._exit(0)
attempt("double fork", detach)
attempt("setsid", os.setsid)
attempt("setpgid", lambda: os.setpgid(0, os.getpgid(os.getppid())))
""",
    "kill": """
import signal
for pid in [os.getppid(), PARENT, 1, -1, 0, -os.getpgrp(), os.getpid() + 1, os.getpid() - 1]:
    for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        attempt(f"kill {number}", lambda: os.kill(pid, number))
attempt("killpg", lambda: os.killpg(os.getpgid(os.getppid()), signal.SIGKILL))
attempt("tkill", lambda: call(200, os.getppid(), 9))
attempt("tgkill", lambda: call(234, os.getppid(), os.getppid(), 9))
attempt("sigqueue", lambda: call(129, os.getppid(), 9, 0))
attempt("pidfd", lambda: os.pidfd_open(os.getppid()))
for pid in range(2, 5000):
    attempt("kill", lambda: os.kill(pid, signal.SIGKILL))
""",
    "signal by descriptor": """
import fcntl
ours, theirs = os.pipe()
attempt("F_SETOWN", lambda: fcntl.fcntl(ours, 8, os.getppid()))
attempt("F_SETSIG", lambda: fcntl.fcntl(ours, 10, 9))
attempt("F_SETOWN_EX", lambda: fcntl.fcntl(ours, 15, bytes(8)))
attempt("FIOSETOWN", lambda: fcntl.ioctl(ours, 0x8901, b"    "))
""",
    "limits and scheduling": """
import resource
attempt("cpu", lambda: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)))
attempt("memory", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
attempt("files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)))
attempt("parent", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))
attempt("read parent", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU))
attempt("nice", lambda: os.nice(-5))
attempt("priority", lambda: os.setpriority(os.PRIO_USER, 0, 19))
attempt("affinity", lambda: os.sched_setaffinity(os.getppid(), [0]))
attempt("scheduler", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("death signal", lambda: libc.prctl(1, 0) == 0)
attempt("dumpable", lambda: libc.prctl(4, 1) == 0)
""",
    "tracing and memory of others": """
buffer = ctypes.create_string_buffer(16)
vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
attempt("ptrace attach", lambda: libc.ptrace(16, os.getppid(), 0, 0) == 0)
attempt("ptrace seize", lambda: libc.ptrace(0x4206, PARENT, 0, 0) == 0)
attempt("traceme", lambda: libc.ptrace(0, 0, 0, 0) == 0)
for pid in (os.getppid(), os.getpid() + 1, PARENT):
    attempt("readv", lambda: libc.process_vm_readv(pid, vector, 1, vector, 1, 0) >= 0)
    attempt("writev", lambda: libc.process_vm_writev(pid, vector, 1, vector, 1, 0) >= 0)
attempt("pidfd_getfd", lambda: call(438, 3, 4, 0))
attempt("kcmp", lambda: call(312, os.getpid(), os.getppid(), 0, 0, 0))
""",
    "kernel interfaces": """
attempt("mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, 0) == 0)
attempt("unshare", lambda: libc.unshare(0x10000000) == 0)
attempt("chroot", lambda: os.chroot("OUTSIDE"))
attempt("setuid", lambda: os.setuid(0))
attempt("setgroups", lambda: os.setgroups([]))
attempt("hostname", lambda: libc.sethostname(b"x", 1) == 0)
attempt("clock", lambda: __import__("time").clock_settime(0, 0))
attempt("memfd", lambda: os.memfd_create("x"))
attempt("shm", lambda: libc.shmget(0, 1 << 30, 0o1600) >= 0)
attempt("inotify", lambda: libc.inotify_init() >= 0)
attempt("sync", lambda: call(162))
for name, number in {"setns": 308, "bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "keyctl": 250,
                     "add_key": 248, "io_uring_setup": 425, "io_setup": 206, "pivot_root": 155, "quotactl": 179,
                     "init_module": 175, "kexec": 246, "personality": 135, "name_to_handle_at": 303,
                     "open_by_handle_at": 304, "fanotify_init": 300, "seccomp": 317, "landlock": 444, "mq_open": 240,
                     "fsopen": 430, "open_tree": 428, "memfd_secret": 447, "process_madvise": 440, "swapon": 167,
                     "reboot": 169, "syslog": 103, "mlockall": 151, "timer_create": 222, "x": 1000}.items():
    attempt(name, lambda: call(number, 0, 0, 0, 0, 0))
""",
    "shared memory and queues": """
attempt("shmget", lambda: call(29, 0x7068, 4096, 0o1666))
attempt("shmat", lambda: call(30, 0, 0, 0))
attempt("shmctl", lambda: call(31, 0, 0, 0))
attempt("semget", lambda: call(64, 0x7068, 1, 0o1666))
attempt("msgget", lambda: call(68, 0x7068, 0o1666))
attempt("mq_open", lambda: call(240, ctypes.addressof(ctypes.create_string_buffer(b"TOKEN")), 0o102, 0o666, 0))
attempt("shm_open", lambda: libc.shm_open(b"/TOKEN", 0o102, 0o666) >= 0)
attempt("SharedMemory", lambda: __import__("multiprocessing.shared_memory").shared_memory.SharedMemory("TOKEN", True, 64))
attempt("tmpfs", lambda: __import__("tempfile").TemporaryFile())
attempt("eventfd", lambda: os.eventfd(0))
""",
    "programs from memory": """
attempt("memfd", lambda: os.memfd_create("TOKEN"))
attempt("execveat", lambda: call(322, 3, ctypes.addressof(ctypes.create_string_buffer(b"")), 0, 0, 0x1000))
attempt("fexecve", lambda: os.execve(3, ["x"], {}))
attempt("null program", lambda: os.execve(0, ["x"], {}))
attempt("uselib", lambda: call(134, 0))
attempt("libc system", lambda: libc.system(b"true") == 0)
attempt("libc popen", lambda: libc.popen(b"true", b"r") != 0)
attempt("libc fork", lambda: libc.fork() >= 0)
attempt("libc daemon", lambda: libc.daemon(0, 0) == 0)
""",
    "namespaces by clone": """
for flags in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
    attempt(f"clone {flags:x}", lambda: call(56, flags | 17, 0, 0, 0, 0))
    attempt(f"unshare {flags:x}", lambda: libc.unshare(flags) == 0)
    attempt(f"setns {flags:x}", lambda: libc.setns(3, flags) == 0)
attempt("CLONE_PARENT", lambda: call(56, 0x8000 | 17, 0, 0, 0, 0))
attempt("CLONE_UNTRACED", lambda: call(56, 0x800000 | 17, 0, 0, 0, 0))
""",
    "rare sockets": """
import socket
for family in range(64):
    for kind in (1, 2, 3, 5):
        attempt(f"family {family} {kind}", lambda: socket.socket(family, kind, 0))
        if family != 1:
            attempt(f"pair {family} {kind}", lambda: libc.socketpair(family, kind, 0, (ctypes.c_int * 2)()) == 0)
attempt("AF_ALG", lambda: socket.socket(38, 5).bind(("hash", "sha256")))
""",
    "passing descriptors": """
import array, socket
one, two = socket.socketpair()
attempt("SCM_RIGHTS", lambda: one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [3]))]))
message = ctypes.create_string_buffer(256)
attempt("to the judge", lambda: libc.sendmsg(3, message, 0) >= 0)
attempt("receive", lambda: libc.recvmsg(3, message, socket.MSG_DONTWAIT) >= 0)
attempt("peer", lambda: libc.getsockopt(3, socket.SOL_SOCKET, socket.SO_PEERCRED, message, message) >= 0)
attempt("pidfd_getfd", lambda: call(438, 3, 4, 0))
one.close(), two.close(), __import__("gc").collect()
for fd in range(4, 256):
    attempt(f"descriptor {fd}", lambda: os.fstat(fd))
""",
    "terminals and devices": """
import fcntl
for fd in range(4):
    for request in (0x5412, 0x540E, 0x5422, 0x5410, 0x541C, 0x5414, 0x8905, 0x8913, 0x4004667F):
        attempt(f"ioctl {request:x}", lambda: fcntl.ioctl(fd, request, bytes(64)))
for path in ("/dev/tty", "/dev/ptmx", "/dev/console", "/dev/kmsg", "/dev/mem", "/dev/fuse", "/dev/kvm", "/dev/vda",
             "/dev/full", "/dev/net/tun", "/dev/fd/3", "/proc/self/fd/3"):
    attempt(path, lambda: os.open(path, os.O_RDONLY))
for path in ("/dev/zero", "/dev/random", "/dev/urandom"):
    attempt("write " + path, lambda: os.open(path, os.O_WRONLY))
""",
    "more of the kernel": """
attempt("get_robust_list", lambda: call(274, os.getppid(), ctypes.addressof(ctypes.c_uint64()), ctypes.addressof(ctypes.c_uint64())))
attempt("prlimit raise", lambda: call(302, 0, 0, ctypes.addressof((ctypes.c_uint64 * 2)(-1, -1)), 0))
attempt("prlimit by a high pid", lambda: call(302, 1 << 32 | 0, 0, ctypes.addressof((ctypes.c_uint64 * 2)(9, 9)), 0))
for name, number in {"sched_setattr": 314, "ioprio_set": 251, "modify_ldt": 154, "iopl": 172, "ioperm": 173, "acct": 163,
                     "vhangup": 153, "splice": 275, "tee": 276, "vmsplice": 278, "sendfile": 40, "signalfd": 289,
                     "copy_file_range": 326, "inotify_init1": 294, "timerfd": 283, "pidfd_send_signal": 424,
                     "io_uring_enter": 426, "io_uring_register": 427, "fsmount": 432, "mount_setattr": 442,
                     "landlock_restrict_self": 446, "set_mempolicy": 238, "migrate_pages": 256, "flock": 73,
                     "setreuid": 113, "setresuid": 117, "setfsuid": 122, "capset": 126, "mknod": 133, "umount2": 166,
                     "delete_module": 176, "request_key": 249, "lookup_dcookie": 212, "process_mrelease": 448,
                     "map_shadow_stack": 453, "statmount": 457, "lsm_set_self_attr": 460, "settimeofday": 164,
                     "adjtimex": 159, "setdomainname": 171, "syncfs": 306, "remap_file_pages": 216}.items():
    attempt(name, lambda: call(number, 0, 0, 0, 0, 0))
for option in (1, 4, 8, 15, 22, 23, 24, 28, 35, 36, 38, 40, 47, 53, 0x59616D61):
    attempt(f"prctl {option}", lambda: libc.prctl(option, 1, 0, 0, 0) == 0)
""",
}

# What a message of the protocol looks like, for those who would forge one.
_FORGE = """
import os, struct
def s(text): return b"s" + struct.pack(">I", len(text)) + text.encode()
def t(*items): return b"t" + struct.pack(">I", len(items)) + b"".join(items)
def frame(data): return struct.pack(">Q", len(data)) + data
def send(data): os.write(3, data)
"""

PROGRAMS: dict[str, tuple[str, str]] = {name: _attempts(body.strip()) for name, body in _ATTEMPTS.items()}

PROGRAMS |= {
    "os._exit at import": (
        "import os\nos._exit(0)",
        r"failed: the candidate's process ended \(exit status 0\)",
    ),
    "os._exit in the call": (
        "import os\ndef f(x): os._exit(0)",
        r"failed: the candidate's process ended \(exit status 0\)",
    ),
    "sys.exit at import": ("import sys\nsys.exit(0)", "failed: SystemExit: 0"),
    "sys.exit in the call": ("import sys\ndef f(x): sys.exit(0)", "failed: SystemExit: 0"),
    "SystemExit when printed": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\ndef f(x): raise E",
        "failed: E",
    ),
    "SystemExit in comparisons": (
        "class V:\n    def __eq__(self, o): raise SystemExit(0)\n    __ne__ = __bool__ = __str__ = __eq__\n"
        "    __hash__ = None\ndef f(x): return V()",
        "failed: AssertionError",
    ),
    "KeyboardInterrupt in the call": ("def f(x): raise KeyboardInterrupt", "failed: KeyboardInterrupt"),
    "GeneratorExit in the call": ("def f(x): raise GeneratorExit", "failed: GeneratorExit"),
    "atexit": (
        "import atexit, os, sys\natexit.register(lambda: os._exit(0))\ndef f(x): return 'wrong'",
        "failed: wrong",
    ),
    "forged verdict on every descriptor": (
        _FORGE
        + "def f(x):\n    for fd in range(64):\n        for data in (frame(t(s('passed'), s(''))), "
        + "frame(t(s('passed'), s(''), b'f' + bytes(8))), b'passed', b'P'):\n            try: os.write(fd, data)\n"
        + "            except OSError: pass\n    os._exit(0)",
        "failed: .*",
    ),
    "2 GB of memory": ("def f(x): return 'right' if bytearray(2 << 30) else ''", "failed: MemoryError"),
    "2 GB of small objects": (
        "def f(x):\n    held = []\n    while True: held.append(bytearray(1 << 20))",
        "failed: MemoryError|timed out",
    ),
    "2 GB mapped": (
        "import mmap\ndef f(x):\n    m = mmap.mmap(-1, 2 << 30)\n    return 'right'",
        r"failed: \[Errno 12\] Cannot allocate memory",
    ),
    "swallows every exception": (
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "timed out",
    ),
    "ignores signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\n"
        "def f(x):\n    while True: pass",
        "timed out",
    ),
    "equal to everything": (
        "class V:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
        "    def __repr__(self): return 'right'\n    __hash__ = object.__hash__\ndef f(x): return V()",
        "failed: right",
    ),
    "lying str": (
        "class V(str):\n    def __eq__(self, o): return True\n    def __hash__(self): return hash('right')\n"
        "def f(x): return V('wrong')",
        "failed: wrong",
    ),
    "patched builtins": (
        "import builtins, operator\nfor n in ('all', 'any', 'abs', 'len', 'set', 'sorted', 'isinstance', 'str'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\nbuiltins.AssertionError = None\noperator.eq = lambda a, b: True\n"
        "def f(x): return 'wrong'",
        "failed: .*",
    ),
    "patches the judge's modules": (
        "import sys, gc, types\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'finish' in o: o['finish'] = None\n"
        "    if isinstance(o, types.FunctionType) and o.__module__.startswith('phi_jax'): o.__code__ = (lambda *a, **k: ('passed', '')).__code__ if not o.__closure__ else o.__code__\n"
        "def f(x): return 'wrong'",
        "failed: .*",
    ),
    "looks for the tests": (
        "import gc, sys\ndef f(x):\n    frame, seen = sys._getframe(), []\n    while frame:\n"
        "        seen += [str(frame.f_locals), str(list(frame.f_globals))]\n        frame = frame.f_back\n"
        "    needle = 'tluser tressa'[::-1]\n    seen += [o for o in gc.get_objects() if isinstance(o, str)]\n"
        "    seen += [str(o) for o in gc.get_objects() if type(o) is tuple]\n"
        "    return 'right' if any(needle in text for text in seen) else 'denied'",
        "failed: denied",
    ),
    "recursion without limit": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef g(x): return [g(x) for _ in (1,)]\ndef f(x): return g(x)",
        "failed: .*|timed out",
    ),
    "segfault": (
        "import ctypes\ndef f(x): ctypes.string_at(0)",
        r"failed: the candidate's process ended \(signal SIGSEGV\)",
    ),
    "another architecture's calls": (
        "import ctypes, mmap\ncode = bytes.fromhex('b814000000cd80c3')\n"
        "m = mmap.mmap(-1, 4096, prot=7)\nm.write(code)\n"
        "run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
        "def f(x): return 'right' if run() else 'right'",
        r"failed: the candidate's process ended \(signal SIG(SYS|SEGV|ILL)\)",
    ),
    "protocol: huge frame": (
        _FORGE + "def f(x):\n    send(b'\\xff' * 8)\n    return 'right'",
        "failed: a message above .*",
    ),
    "protocol: garbage": (
        _FORGE + "def f(x):\n    send(frame(b'garbage'))\n    return 'right'",
        "failed: .*",
    ),
    "protocol: false count": (
        _FORGE + "def f(x):\n    send(frame(b'l\\xff\\xff\\xff\\xff'))\n    return 'right'",
        "failed: a count above the bytes that follow",
    ),
    "protocol: replies before requests": (
        _FORGE + "for _ in range(50): send(frame(t(s('answer'), b'T')))\ndef f(x): return 'right'",
        "failed: .*",
    ),
    "protocol: deep nesting": (
        _FORGE + "def f(x):\n    send(frame(b't' + b'\\0\\0\\0\\1' + b'l\\0\\0\\0\\1' * 200000 + b'N'))\n",
        "failed: a value nested deeper .*",
    ),
    "protocol: endless frame": (
        _FORGE + "def f(x):\n    send(struct.pack('>Q', 1 << 20))\n    os.close(3)\n    while True: pass",
        "failed: the candidate closed its channel|timed out",
    ),
    "protocol: false references": (
        _FORGE
        + "def f(x):\n    send(frame(t(s('ask'), t(b'i\\0\\0\\0\\1\\5', t(), b'd\\0\\0\\0\\0'))))\n    return 'right'",
        "failed: .*",
    ),
    "protocol: lying exception": (
        _FORGE + "def f(x):\n    send(frame(t(s('raise'), b'l\\0\\0\\0\\1' + s('SystemExit'), s('0'))))\n",
        "failed: SystemExit: 0",
    ),
    "closes its channel and stays": (
        "import os, time\ndef f(x):\n    os.close(3)\n    while True: time.sleep(60)",
        "failed: the candidate closed its channel",
    ),
    "enormous result": (
        "def f(x): return 'x' * (100 << 20)",
        "failed: a value of .* bytes is above the limit of .*",
    ),
    "deeply nested result": (
        "def f(x):\n    v = []\n    for _ in range(10 ** 5): v = [v]\n    return v",
        "failed: a value nested deeper .*",
    ),
    "self-containing result": (
        "def f(x):\n    v = []\n    v.append(v)\n    return v",
        "failed: a value nested deeper .*",
    ),
    "sets the judge's exception": (
        "def f(x): raise type('AssertionError', (BaseException,), {})('right')",
        "failed: .*",
    ),
    "floods stdout": (
        "import sys, os\ndef f(x):\n    for _ in range(200):\n        sys.stdout.write('x' * (1 << 20)); sys.stderr.write('x' * (1 << 20))\n"
        "        os.write(1, b'x' * (1 << 20))\n    return 'wrong'",
        "failed: wrong",
    ),
    "huge integer": ("def f(x): return 10 ** 4_000_000", "failed: .*|timed out"),
    "huge integer as text": ("def f(x): return str(10 ** 5000)", "failed: Exceeds the limit .*"),
    "endless regular expression": (
        "import re\ndef f(x): return re.match('(a+)+$', 'a' * 60 + 'b') or 'right'",
        "timed out",
    ),
    "endless arithmetic": ("def f(x): return 9 ** 9 ** 9", "timed out|failed: MemoryError"),
    "hashes that collide": (
        "def f(x): return {i * (2 ** 61 - 1) for i in range(1, 20000)}",
        "failed: .*|timed out",
    ),
    "compiler bomb": ("def f(x): return eval('-' * 90000 + '1')", "failed: .*"),
    "pickled in a value": (
        "import os\nclass V:\n    def __reduce__(self): return os.system, ('touch /tmp/TOKEN',)\n    __reduce_ex__ = lambda s, n: s.__reduce__()\n"
        "    def __repr__(self): return 'gadget'\ndef f(x): return V()",
        "failed: gadget",
    ),
    "format string in a value": (
        "def f(x): return '{0.__class__.__mro__} %s %n {result!r}'",
        r"failed: \{0.__class__.__mro__\} %s %n \{result!r\}",
    ),
    "frames through a traceback": (
        "import sys\ndef f(x):\n    try: raise ValueError\n    except ValueError as e: frame = e.__traceback__.tb_frame\n"
        "    while frame:\n        for scope in (frame.f_globals, frame.f_locals):\n"
        "            for name in ('encode', 'text_of', 'PASSED', 'FAILED'):\n"
        "                if name in scope: scope[name] = 'passed' if name.isupper() else lambda *a, **k: b'T'\n"
        "        frame = frame.f_back\n    return 'wrong'",
        "failed: .*|timed out",
    ),
    "modules replaced": (
        "import sys\nclass M(type(sys)):\n    def __getattr__(self, name): return lambda *a, **k: 'passed'\n"
        "for n in list(sys.modules):\n    if n not in ('sys', 'builtins', 'candidate'): sys.modules[n] = M(n)\n"
        "def f(x): return 'wrong'",
        "failed: wrong",
    ),
    "destructor at the end": (
        _FORGE
        + "class V:\n    def __del__(self): send(frame(t(s('answer'), t(s('right'), b'd\\0\\0\\0\\0')))); os._exit(0)\n"
        "keep = V()\ndef f(x): return 'wrong'",
        "failed: wrong",
    ),
    "replies from a timer": (
        _FORGE + "import signal\ndef late(*_):\n    for _ in range(9): send(frame(t(s('passed'), s(''))))\n"
        "signal.signal(signal.SIGALRM, late)\nsignal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "def f(x):\n    while True: pass",
        "failed: .*|timed out",
    ),
    "tracer": (
        "import sys\ndef trace(frame, event, value):\n    for n in ('value', 'result'):\n        if n in frame.f_locals: frame.f_locals[n] = 'passed'\n    return trace\n"
        "sys.settrace(trace)\nsys.setprofile(trace)\ndef f(x): return 'wrong'",
        "failed: .*",
    ),
    "descriptors used up": (
        "import os\nheld = []\ndef f(x):\n    while True:\n        try: held.append(os.open('/dev/null', 0))\n"
        "        except OSError: return 'denied' if len(held) < 64 else 'right'",
        "failed: denied",
    ),
    "reads stdin": ("def f(x): return input()", "failed: EOF when reading a line"),
    "source that crashes the compiler": ("(" * 100_000 + "def f(x): return 'right'", "failed: .*"),
    "no source": ("", "failed: name 'f' is not defined"),
    "NUL in the source": (
        "def f(x): return 'right'\0",
        "failed: source code string cannot contain null bytes",
    ),
    "surrogate in the source": ("def f(x): return '\ud800'", "failed: .*"),
}
"""Run under the ordinary tests, one verdict each."""

LIES: dict[str, tuple[str, str]] = {
    "difference of nothing": (
        "class V:\n    def __sub__(self, o): return 0.0\n    __rsub__ = __sub__\n    def __abs__(self): return 0.0\n"
        "def f(x): return V()",
        "assert abs(f(1) - 2.5) < 1e-6",
    ),
    "difference of a float": (
        "class V(float):\n    def __sub__(self, o): return 0.0\n    __rsub__ = __sub__\ndef f(x): return V(7)",
        "assert abs(f(1) - 2.5) < 1e-6 and abs(2.5 - f(1)) < 1e-6",
    ),
    "smaller than everything": (
        "class V:\n    def __lt__(self, o): return True\n    __le__ = __gt__ = __ge__ = __lt__\ndef f(x): return V()",
        "assert f(1) < 3 and f(1) > 2",
    ),
    "contains everything": (
        "class V(list):\n    def __contains__(self, o): return True\n    def __eq__(self, o): return True\ndef f(x): return V()",
        "assert 3 in f(1)",
    ),
    "lying list": (
        "class V(list):\n    def __eq__(self, o): return True\n    def __len__(self): return 3\ndef f(x): return V([9, 9])",
        "assert f(1) == [1, 2, 3]",
    ),
    "lying int": (
        "class V(int):\n    def __eq__(self, o): return True\n    def __hash__(self): return 5\ndef f(x): return V(4)",
        "assert f(1) == 5",
    ),
    "lying int in a list": (
        "class V(int):\n    def __eq__(self, o): return True\ndef f(x): return [V(4)]",
        "assert f(1) == [5]",
    ),
    "lying set member": (
        "class V:\n    def __eq__(self, o): return True\n    def __hash__(self): return hash(5)\ndef f(x): return {V()}",
        "assert f(1) == {5}",
    ),
    "lying type": (
        "class V:\n    __class__ = int\n    def __eq__(self, o): return True\ndef f(x): return V()",
        "assert isinstance(f(1), int)",
    ),
    "ends the tests' loop": (
        "def f(x): raise StopIteration",
        "for got, want in zip(map(f, [1, 2]), [3, 4]):\n    assert got == want",
    ),
    "ends the tests' generator": ("def f(x): raise StopIteration", "assert all(f(x) == x for x in (1, 2))"),
    "exception caught by tests": (
        "import os\ndef f(x): os._exit(0)",
        "try:\n    f(1)\nexcept BaseException:\n    pass",
    ),
    "broken message caught by tests": (
        "import os\ndef f(x): os.write(3, bytes(64))",
        "for _ in range(3):\n    try:\n        f(1)\n    except BaseException:\n        pass",
    ),
    "redefines check": (
        "def check(candidate): pass\ndef f(x): return 'wrong'",
        "def check(candidate):\n    assert candidate(1) == 'right'\ncheck(f)",
    ),
    "replaces a module that the tests use": (
        "class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(x): return 0",
        "assert math.isclose(f(1), 5)",
    ),
    "endless iterator": ("def f(x):\n    while True: yield x", "assert list(f(1)) == [1]"),
    "class property": (
        "class V:\n    __class__ = property(lambda self: list)\n    def __eq__(self, o): return True\n    def __len__(self): return 2\n"
        "def f(x): return V()",
        "assert isinstance(f(1), list) and f(1) == [1, 2]",
    ),
    "pretends to be numpy's": (
        "class V(float):\n    __module__ = 'numpy'\n    ndim = 0\n    def item(self): return self\n    def __eq__(self, o): return True\n"
        "    __rsub__ = __sub__ = lambda s, o: 0.0\ndef f(x): return V(7)",
        "assert f(1) == 5.0 or abs(f(1) - 5.0) < 1e-6",
    ),
    "replaces Decimal": (
        "import decimal\nclass Decimal:\n    __module__ = 'decimal'\n    def __eq__(self, o): return True\n    def __str__(self): return '7'\n"
        "decimal.Decimal = Decimal\ndef f(x): return Decimal()",
        "from decimal import Decimal as D\nassert f(1) == D(5)",
    ),
    "NaN that equals": (
        "class V(float):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\ndef f(x): return [V('nan')]",
        "assert f(1) == [float('nan')]",
    ),
    "lying keys of a dict": (
        "class V(str):\n    def __eq__(self, o): return True\n    def __hash__(self): return hash('a')\ndef f(x): return {V('b'): 1}",
        "assert f(1) == {'a': 1} or f(1)['a'] == 1",
    ),
    "lying dict": (
        "class V(dict):\n    def __eq__(self, o): return True\n    def __getitem__(self, k): return 5\n    def get(self, k, d=None): return 5\n"
        "def f(x): return V()",
        "assert f(1) == {'a': 5}",
    ),
    "lying bool": (
        "class V:\n    def __bool__(self): return True\n    def __eq__(self, o): return True\ndef f(x): return V()",
        "assert f(1) is True or f(1) == True",
    ),
    "the tests' own function back": (
        "def f(g): return g",
        "assert f(lambda: 1) == 1 or f(lambda: 1)() == 2",
    ),
    "behind the tests' function": (
        "def f(g):\n    scope = getattr(g, '__globals__', None) or g.__call__.__globals__\n    scope.update(expected='wrong', check=lambda c: None)\n    return 'wrong'",
        "expected = 'right'\ndef check(candidate):\n    assert candidate(lambda: 1) == expected\ncheck(f)",
    ),
    "generator that never ends": (
        "def f(x):\n    n = 0\n    while True:\n        n += 1\n        yield n",
        "assert sum(f(1)) == 6",
    ),
    "endless length": (
        "class V(list):\n    def __len__(self): return 10 ** 30\ndef f(x): return V()",
        "assert len(f(1)) == 3",
    ),
}
"""{name: (source, tests)}: none passes."""
