"""The processes of a cluster: thin shells around the pure packages. Shipped as `rayqueue.actors`."""

if __name__ == "actors":
    # Two names for one module would be two modules: classes pickled under one are unknown under the other.
    raise ImportError("this package is rayqueue.actors, not actors: put the directory above it on the path")
