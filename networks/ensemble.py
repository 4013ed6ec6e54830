"""Several networks as one: their probabilities are averaged."""

import math

import torch
import torch.nn as nn


class Ensemble(nn.Module):
    """The mean of several networks' probabilities, each at its own temperature.

    Args:
        members: networks of the same bands and classes, in eval mode.
    Source: Lakshminarayanan 2017, "Simple and scalable predictive uncertainty estimation using
        deep ensembles", section 2.4. Differs from the paper in having no adversarial training.
    """

    def __init__(self, members):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stride = math.lcm(*[member.stride for member in members])
        radii = [member.radius for member in members]
        self.radius = None if None in radii else max(radii)
        self.temperature = 1.0
        self.eval()

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W), the logarithm of the mean probabilities."""
        total = 0
        for member in self.members:
            total = total + (member(x) / member.temperature).softmax(1)
        return (total / len(self.members)).clamp(min=1e-12).log()


def mutual_information(probabilities):
    """How far the members of an ensemble disagree: 0 (not at all) to 1 (as much as they can).

    It is the entropy of the mean minus the mean of the entropies. A border that every member finds
    doubtful has a high entropy and little mutual information. Ground unlike the training scenes,
    of which each member is sure in another way, has much.

    Args:
        probabilities: (M, B, K, H, W) of M members, 2 or more.
    Returns:
        (B, 1, H, W), as a share of the most that M members and K classes can reach.
    Source: Depeweg 2018, "Decomposition of uncertainty in Bayesian deep learning", equation 2.
    """
    members, _, classes, _, _ = probabilities.shape
    of_mean = torch.special.entr(probabilities.mean(0)).sum(1, keepdim=True)
    mean_of_members = torch.special.entr(probabilities).sum(2, keepdim=True).mean(0)
    most = math.log(max(min(members, classes), 2))
    return ((of_mean - mean_of_members) / most).clamp(0, 1)
