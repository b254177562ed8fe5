"""What a declared spatial prior takes out of the suite."""

from arrcoc_verify.lab import Lab, NotApplicable


def no_prior(lab: Lab) -> None:
    """Raise NotApplicable where the adapter declares that some places are preferred."""
    if lab.model.declaration.spatial_prior:
        raise NotApplicable("the adapter declares a spatial prior")
