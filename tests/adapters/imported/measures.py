"""A scorer that is a plain function."""


def spread(image):
    """Return the deviation of each cell of 16 x 16 pixels: `[B, h, w]`."""
    return image.mean(1).unfold(1, 16, 16).unfold(2, 16, 16).std((3, 4))
