"""How many examples a slow property gets: a share of what the profile gives, so `make soak` multiplies it too."""

from hypothesis import settings

USUAL = 100
"""Examples in hypothesis's own default profile."""


def examples(usual: int) -> settings:
    """Settings of a property that is checked on `usual` examples where others get 100."""
    return settings(max_examples=max(1, usual * settings.default.max_examples // USUAL))  # type: ignore[union-attr]
