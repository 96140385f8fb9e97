"""Which pairs of a batch count and how: the paper's choice (3.2, step 3) and three others."""

from __future__ import annotations

from dataclasses import dataclass

POSITIVES = ("one", "all")
TARGETS = ("drawn", "soft")


@dataclass(frozen=True)
class PairOptions:
    """What is done with the labels of a batch's patches; the defaults are the paper's.

    Attributes:
        positives: `one` patch of a batch stays for each label (3.2, step 3); `all` patches stay and
            those that share a word are its positives together.
        targets: a patch's target is the label `drawn` for it (eq. 9), or `soft`: the distribution
            that the draw uses. Soft targets need `all`: there is no label to keep one patch for.
        mask_own_top_n: the other words of a patch's own top n are no negatives for it. Not with
            `soft`, where all of them are its targets.

    Raises:
        ValueError: on a value that is not known or two that do not go together.
    """

    positives: str = "one"
    targets: str = "drawn"
    mask_own_top_n: bool = False

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.positives not in POSITIVES:
            raise ValueError(f"positives {self.positives!r}: choose one of {', '.join(POSITIVES)}")
        if self.targets not in TARGETS:
            raise ValueError(f"targets {self.targets!r}: choose one of {', '.join(TARGETS)}")
        if self.targets == "soft" and self.positives == "one":
            raise ValueError(
                "targets soft needs positives all: without drawn labels there is nothing to keep "
                "one patch for"
            )
        if self.targets == "soft" and self.mask_own_top_n:
            raise ValueError(
                "mask_own_top_n does nothing with targets soft: all words of a patch's top n are "
                "its targets, none is a negative; leave one of the two out"
            )

    @property
    def as_in_paper(self) -> bool:
        """Whether the pairs are those of `symmetric_infonce`."""
        return self == PAPER

    @property
    def need_top_n(self) -> bool:
        """Whether a batch has to carry the patches' top n words."""
        return self.targets == "soft" or self.mask_own_top_n


PAPER = PairOptions()
"""One patch a label, labels drawn, nothing masked."""
