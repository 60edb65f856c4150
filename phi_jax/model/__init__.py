"""The phi architecture: pure functions of arrays; no mesh, no files, no data source."""
