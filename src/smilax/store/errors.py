"""What can go wrong with a store, by name."""


class StoreError(Exception):
    """Anything wrong with a store on disk."""


class StoreMissing(StoreError):
    """There is no store at the path given."""


class StoreExists(StoreError):
    """A new store was asked for where there is something already."""


class StoreLocked(StoreError):
    """Another run is writing to the store."""


class StoreVersion(StoreError):
    """The store was written by a newer version of the format."""


class StoreCorrupt(StoreError):
    """The manifest or a shard is missing, damaged or not what it claims to be."""


class StoreUnwritable(StoreError):
    """The operating system refused to write: a read-only directory, no permission, a failing disk."""


class StoreFull(StoreUnwritable):
    """The disk, or the quota on it, is full."""
