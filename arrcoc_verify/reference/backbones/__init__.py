"""The trained reference model's scorers, balancer and allocator on a backbone of one's own.

    net = backbones.model(backbones.timm("resnet18", Path("resnet18.safetensors")))

What does not depend on the backbone (information, salience, curve, task head) has the shipped
weights. What does is either read from `allocator`, or left as it starts: query relevance is then
the plain similarity of patch and query.
"""

from arrcoc_verify.reference.backbones.assembling import Fitted, model, read
from arrcoc_verify.reference.backbones.open_clip_towers import build as open_clip
from arrcoc_verify.reference.backbones.timm_tower import build as timm
from arrcoc_verify.reference.backbones.towers import Backbone
from arrcoc_verify.reference.backbones.transformers_vlm import build as transformers

__all__ = ["Backbone", "Fitted", "model", "open_clip", "read", "timm", "transformers"]
