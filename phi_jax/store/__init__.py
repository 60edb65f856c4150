"""What lies on the disk: artifacts with their manifests, documents in Parquet, digests of what a path holds."""
