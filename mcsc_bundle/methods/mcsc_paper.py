"""MCSC as the paper means it: multi-scale cross contrastive learning (Liu et al., BMVC 2023, arXiv 2306.14293).

A CNN and a Transformer teach each other by hard pseudo-labels (cross teaching), and a class-balanced contrastive loss
ties their decoder features at several scales. ``docs/method.md`` sets this beside the paper and the released code;
``mcsc.py`` is the product's default, which adds what has been shown to lift it since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcsc_bundle.methods.base import IMAGE, LABEL
from mcsc_bundle.methods.contrast import MultiScaleContrast
from mcsc_bundle.methods.cross_teaching import CrossTeaching
from mcsc_bundle.networks.pair import NetworkPair
from mcsc_bundle.outputs import Classes


class PaperMCSC(CrossTeaching):
    """``L = sum_k [L_s,k + w(t) L_cps,k] + contrast_weight * sum_scales L_cl``.

    Labelled features take the ground truth; **unlabelled CNN features take the Transformer's labels and the other way
    round**, so that the contrast carries information across the networks too.

    Args:
        networks: the plan's CNN and Transformer, both trained.
        loss: supervised loss of logits and label.
        contrast: the loss over scales, with its projectors.
        weight, rampup: of the cross pseudo supervision, as in ``CrossTeaching`` (here full at iteration 30 000 of 40 000).
        contrast_weight: weight of each scale's loss. The released code adds 0.001 for each of the two networks: 0.002.
        contrast_unlabeled_from: progress from which unlabelled features join the contrast (released code: iteration
            3000 of 40 000 = 0.075). Before it pseudo-labels are too poor to serve as positives.
        deep_supervision: as in ``CrossTeaching``; the paper has none.
    """

    def __init__(
        self,
        networks: NetworkPair,
        loss: nn.Module,
        contrast: MultiScaleContrast,
        weight: float = 0.1,
        rampup: float = 0.75,
        contrast_weight: float = 0.002,
        contrast_unlabeled_from: float = 0.075,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(networks, loss, weight, rampup, deep_supervision)
        self.contrast = contrast
        self.contrast_weight = contrast_weight
        self.contrast_unlabeled_from = contrast_unlabeled_from

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms of ``CrossTeaching`` and ``contrast_1``, ``contrast_2``, ... from fine to coarse."""
        image, label = batch[IMAGE], batch[LABEL]
        features = (self.cnn.features(image), self.transformer.features(image))
        logits = (self.cnn.head(features[0][-1]), self.transformer.head(features[1][-1]))
        terms = {**self.supervised_terms(logits, features[0], label), **self.cross_terms(logits, len(label), progress)}
        labels = crossed_labels(logits, label, self.outputs)
        if progress < self.contrast_unlabeled_from:
            cnn, transformer = ([level[: len(label)] for level in maps] for maps in features)
            features, labels = (cnn, transformer), (labels[0][: len(label)], labels[1][: len(label)])
        return terms | self.contrast_terms(features, labels)

    def compile_networks(self, **kwargs: Any) -> None:
        """Also the contrast, which is one graph: many small steps between a few large products."""
        super().compile_networks(**kwargs)
        self.contrast.forward = torch.compile(self.contrast.forward, **kwargs)  # type: ignore[method-assign]

    def contrast_terms(
        self, features: tuple[Sequence[Tensor], Sequence[Tensor]], labels: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The weighted contrastive loss of each scale, see ``MultiScaleContrast.forward``."""
        losses = self.contrast(features, labels)
        return {f"contrast_{scale}": self.contrast_weight * value for scale, value in enumerate(losses, start=1)}


def crossed_labels(logits: tuple[Tensor, Tensor], label: Tensor, outputs: Classes) -> tuple[Tensor, Tensor]:
    """Class indices ``(L + U, *spatial)`` for the features of the CNN and of the Transformer.

    Args:
        logits: of CNN and Transformer, ``(L + U, C, *spatial)``.
        label: ground truth of the labelled part, ``(L, 1, *spatial)``.
        outputs: what the channels mean; of regions, a voxel's class is the one that is painted last.
    """
    truth = outputs.exclusive(outputs.target(label))
    cnn, transformer = (outputs.exclusive(outputs.hard(both[len(label) :])) for both in logits)
    return torch.cat((truth, transformer)), torch.cat((truth, cnn))
