"""Draws and resumable state on disk: immutable safetensors shards and one manifest that says which of them count."""

from smilax.store.errors import StoreCorrupt as StoreCorrupt
from smilax.store.errors import StoreError as StoreError
from smilax.store.errors import StoreExists as StoreExists
from smilax.store.errors import StoreFull as StoreFull
from smilax.store.errors import StoreLocked as StoreLocked
from smilax.store.errors import StoreMissing as StoreMissing
from smilax.store.errors import StoreUnwritable as StoreUnwritable
from smilax.store.errors import StoreVersion as StoreVersion
from smilax.store.lazy import LazyArray as LazyArray
from smilax.store.manifest import Leaf as Leaf
from smilax.store.manifest import Manifest as Manifest
from smilax.store.manifest import Shard as Shard
from smilax.store.manifest import StateFile as StateFile
from smilax.store.reader import Contents as Contents
from smilax.store.reader import read as read
from smilax.store.reader import verify as verify
from smilax.store.shards import read_shard as read_shard
from smilax.store.shards import read_slice as read_slice
from smilax.store.shards import write_shard as write_shard
from smilax.store.sharing import Share as Share
from smilax.store.writer import StoreWriter as StoreWriter
