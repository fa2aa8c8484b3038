"""MCSC, the default: the paper's cross teaching and contrast, fed with what has lifted semi-supervised training since.

On top of ``PaperMCSC``, with the same two networks:

- **weak to strong**: pseudo-labels come from the weakly augmented patch, the networks learn on a strong view of it
  (FixMatch, Sohn et al. 2020; UniMatch, Yang et al. 2023), where the teacher is confident;
- **mixing by boxes**: the strong view holds a box of a labelled patch with its true labels (bidirectional copy-paste,
  Bai et al. 2023) or of another unlabelled patch (CutMix, French et al. 2020);
- **EMA teachers** of both networks, one of them in each step as in AD-MT (Zhao et al. 2024), so that a step pays for one
  more forward pass only. AD-MT lets them take turns; here the one that knows the labelled patches better teaches more
  often, since a Transformer of a small plan is far behind its CNN. The CNN's teacher is the network that is shipped;
- **contrast** over the mixed patches, with anchors balanced by class and only confident pixels as keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcsc_bundle.labels import IGNORED
from mcsc_bundle.losses.consistency import confident_loss, sigmoid_rampup
from mcsc_bundle.losses.distributed import mean_over_ranks
from mcsc_bundle.methods.base import IMAGE, LABEL, split_streams
from mcsc_bundle.methods.contrast import MultiScaleContrast
from mcsc_bundle.methods.ema import EMATeacher
from mcsc_bundle.methods.mcsc_paper import PaperMCSC
from mcsc_bundle.methods.readback import ReadBack
from mcsc_bundle.methods.views import random_boxes, strong_intensity
from mcsc_bundle.networks.pair import NetworkPair

MEMORY = 0.95  # of the running cross-entropies on labelled patches, per step


class MCSC(PaperMCSC):
    """``L = sum_k [L_s,k + w(t) L_strong,k] + contrast_weight * sum_scales L_cl``.

    ``L_strong`` is Dice + cross-entropy on the mixed strong view against teacher labels (true labels inside boxes of
    labelled patches), over confident voxels.

    Args:
        networks, loss, contrast: as in ``PaperMCSC``.
        weight: final weight of the unlabelled loss.
        rampup: progress at which it is full.
        contrast_weight: weight of each scale's contrastive loss.
        confidence: least teacher probability of a voxel that is learnt from.
        box_share: smallest and largest share of the patch that the mixed-in box covers.
        copy_paste: probability that the box comes from a labelled patch instead of another unlabelled one; 1 in a batch that
            has a single unlabelled patch.
        decay: of the EMA teachers.
        teacher_power: each network's teacher is drawn with a chance in proportion to ``1 / cross-entropy`` on the labelled
            patches to this power; 0 for turns of equal chance, 8 and more for the better one nearly alone.
        deep_supervision: of the CNN on labelled patches, as nnU-Net has it, see ``Supervision``.

    Attributes:
        watched: of the unlabelled patches, before they are mixed, the share of voxels that the teacher is confident of, the
            share that it is confident are foreground, and whether the CNN's teacher answered.
    """

    def __init__(
        self,
        networks: NetworkPair,
        loss: nn.Module,
        contrast: MultiScaleContrast,
        weight: float = 0.5,
        rampup: float = 0.4,
        contrast_weight: float = 0.01,
        confidence: float = 0.9,
        box_share: tuple[float, float] = (0.1, 0.5),
        copy_paste: float = 0.5,
        decay: float = 0.99,
        teacher_power: float = 2.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(networks, loss, contrast, weight, rampup, contrast_weight, deep_supervision=deep_supervision)
        self.unscaled_channels = networks.unscaled_channels
        self.confidence, self.box_share, self.copy_paste = confidence, box_share, copy_paste
        self.teacher_power = teacher_power
        self.cnn_teacher = EMATeacher(self.cnn, decay)
        self.transformer_teacher = EMATeacher(self.transformer, decay)
        self.mistakes_so_far = (1.0, 1.0)  # running ``mistakes``, of the CNN and of the Transformer
        self._latest = ReadBack(torch.ones(2))

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Terms ``supervised_*``, ``strong_*`` for both networks and ``contrast_1``, ``contrast_2``, ..."""
        image, label = batch[IMAGE], batch[LABEL]
        labeled, weak = split_streams(image, len(label))
        target = self.outputs.target(label)
        if len(weak):
            image, strong_target = self.strong_view(labeled, target, weak)
            target = torch.cat((target, strong_target))
        features = (self.cnn.features(image), self.transformer.features(image))
        logits = (self.cnn.head(features[0][-1]), self.transformer.head(features[1][-1]))
        terms = self.supervised_terms(logits, features[0], label)
        self._latest = ReadBack(mean_over_ranks(self.mistakes(logits, target[: len(label)])))
        if len(weak):
            weight = self.weight * sigmoid_rampup(progress / self.rampup)
            for name, both in zip(("cnn", "transformer"), logits, strict=True):
                terms[f"strong_{name}"] = weight * confident_loss(both[len(label) :], strong_target, self.outputs)
        classes = self.outputs.exclusive(target)
        return terms | self.contrast_terms(features, (classes, classes))

    @torch.no_grad()
    def strong_view(self, labeled: Tensor, target: Tensor, weak: Tensor) -> tuple[Tensor, Tensor]:
        """The batch ``(L + U, C, *spatial)`` with its unlabelled part mixed and jittered, and the labels of that part.

        Args:
            labeled: labelled patches ``(L, C, *spatial)``, passed through.
            target: theirs, ``(L, K, *spatial)``.
            weak: unlabelled patches ``(U, C, *spatial)`` as augmented by the loader.

        Returns:
            Images and their target ``(U, K, *spatial)``, -1 where the teacher is not confident.
        """
        teacher = self.teacher()
        pseudo = self.outputs.confident(teacher(weak), self.confidence)
        self.watched = {
            "confident": (pseudo != IGNORED).float().mean(),
            "confident_foreground": (pseudo > 0).float().mean(),
            "cnn_teaches": pseudo.new_full((), teacher is self.cnn_teacher),
        }
        donors = torch.arange(len(weak), device=weak.device) % len(labeled)
        alone = len(weak) == 1  # then no other unlabelled patch is there to take a box from
        from_labeled = torch.rand(len(weak), device=weak.device) < (1.0 if alone else self.copy_paste)
        choice = from_labeled.view(-1, *[1] * (weak.ndim - 1))
        partner = torch.where(choice, labeled[donors], weak.roll(1, 0))
        partner_target = torch.where(choice, target[donors], pseudo.roll(1, 0))
        box = random_boxes(len(weak), tuple(weak.shape[2:]), *self.box_share, device=weak.device)
        strong = partial(strong_intensity, flat_axis=self.flat_axis, unscaled=self.unscaled_channels)
        mixed = self.disturbed(torch.where(box, partner, weak), strong)
        return torch.cat((labeled, mixed)), torch.where(box, partner_target, pseudo)

    @torch.no_grad()
    def mistakes(self, logits: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        """Cross-entropy of both networks on the labelled patches, ``(2,)``.

        Not the supervised loss: its Dice is near 1 for each class that is absent, whoever looks, so that with many organs both
        networks would seem alike.
        """
        both = [self.outputs.cross_entropy(one[: len(target)], target).mean() for one in logits]
        return torch.stack(both)

    def teacher(self) -> EMATeacher:
        """The teacher of this step, drawn by how well its network knows the labelled patches, see ``teacher_power``."""
        cnn, transformer = (math.log(max(loss, 1e-6)) for loss in self.mistakes_so_far)
        chance = torch.sigmoid(torch.tensor(self.teacher_power * (transformer - cnn)))  # of the CNN's
        return self.cnn_teacher if float(torch.rand(())) < float(chance) else self.transformer_teacher

    def after_step(self, progress: float) -> None:
        """Both teachers follow, and so do the running losses.

        The losses are means over all processes, which therefore agree, and a checkpoint of one holds those of all.
        """
        self.cnn_teacher.update(self.cnn)
        self.transformer_teacher.update(self.transformer)
        pairs = zip(self.mistakes_so_far, self._latest.tolist(), strict=True)
        cnn, transformer = (MEMORY * before + (1 - MEMORY) * now for before, now in pairs)
        self.mistakes_so_far = (cnn, transformer)

    def get_extra_state(self) -> dict[str, Any]:
        """The running cross-entropies, so that a resumed training draws the same teachers."""
        return {"supervised_losses": list(self.mistakes_so_far)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``get_extra_state``."""
        cnn, transformer = state["supervised_losses"]  # as older checkpoints call them
        self.mistakes_so_far = (float(cnn), float(transformer))

    @property
    def shipped(self) -> nn.Module:
        """The CNN's moving average."""
        return self.cnn_teacher.network

    def branches(self) -> dict[str, nn.Module]:
        """Both moving averages."""
        return {"cnn": self.shipped, "transformer": self.transformer_teacher.network}
