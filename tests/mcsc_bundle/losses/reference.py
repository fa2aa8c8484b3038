"""The contrastive loss as the formula reads, by loops over single pixels in float64: slow, obvious, the judge."""

import torch


def contrastive_loss(features, labels, temperature=0.1, balance_anchors=False, ignored=-1, skip_background_groups=True):
    """Mean over the groups that count; see ``docs/method.md``."""
    groups = []
    for z, y in zip(features.double(), labels.tolist(), strict=True):
        known = [i for i, label in enumerate(y) if label != ignored]
        counted = [i for i in known if y[i] > 0] if skip_background_groups else known
        if counted:
            groups.append(group_loss(z[known], [y[i] for i in known], temperature, balance_anchors))
    return torch.stack(groups).mean() if groups else features.double().sum() * 0


def group_loss(z, y, temperature, balance_anchors):
    terms = anchor_losses(z, y, temperature)
    if not balance_anchors:
        return torch.stack(terms).mean()
    classes = [c for c in set(y) if y.count(c) > 1]
    means = [torch.stack([terms[i] for i in range(len(y)) if y[i] == c]).mean() for c in classes]
    return torch.stack(means).mean() if means else z.sum() * 0


def anchor_losses(z, y, temperature):
    z = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(y)):
        denominator = torch.tensor(1e-6, dtype=torch.float64)
        for a in range(len(y)):
            if a != i:
                m = y.count(y[a]) - (1 if y[a] == y[i] else 0)
                denominator = denominator + torch.exp(z[i] @ z[a] / temperature) / m
        positives = [p for p in range(len(y)) if p != i and y[p] == y[i]]
        total = z.sum() * 0
        for p in positives:
            total = total + z[i] @ z[p] / temperature - torch.log(denominator)
        terms.append(-total / (len(positives) + 1e-6))
    return terms
