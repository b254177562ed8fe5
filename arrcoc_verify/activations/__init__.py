"""The activation store: a folder of safetensors shards that survives kill -9 and knows its damage.

`capture` writes one, `ActivationStore.open` reads it; `layout` tells what lies in the folder.
"""

from arrcoc_verify.activations.layout import Damage, Example, Header, Shard, StoredSite
from arrcoc_verify.activations.reading import ActivationStore, Batch
from arrcoc_verify.activations.writing import StoreWriter

__all__ = [
    "ActivationStore",
    "Batch",
    "Damage",
    "Example",
    "Header",
    "Shard",
    "StoreWriter",
    "StoredSite",
]
