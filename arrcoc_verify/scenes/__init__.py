"""Scenes whose truth is known: objects in photographs, queries, regions and contrast pairs."""

from arrcoc_verify.scenes.compose import Layer, compose, scenes, swap_positions
from arrcoc_verify.scenes.scene import Region, Scene

__all__ = ["Layer", "Region", "Scene", "compose", "scenes", "swap_positions"]
