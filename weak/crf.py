"""The gated CRF: neighbours of like colour should be of one class, for the price of a few shifted products."""

import torch


def gated_crf_loss(probabilities, images, seen, radius=3, reach=3.0, contrast=0.25, total=None):
    """How much neighbours of like colour differ in class: 0 for any map of one class, and below 1.

    For each pixel i the mean, over the pixels j of its window, of 1 - p_i . p_j, weighed by
    K_ij = exp(-|x_i - x_j|^2 / 2 reach^2 - |f_i - f_j|^2 / (2 C contrast^2)); then the mean over the pixels.

    Args:
        probabilities: (B, K, H, W).
        images: (B, C, H, W), normalised; the sum over bands is divided by C, so that `contrast` means the same for any C.
        seen: (B, H, W), 1 where there is ground; no other pixel is in any window.
        radius: of the square window, px.
        reach: standard deviation in space, px.
        contrast: standard deviation in colour, in deviations of a band.
        total: by how many pixels the sum is divided, where it is taken over more than these images; None: by those here.
    Returns:
        () loss; 0 where nothing was seen.
    Source: Obukhov et al. 2019, "Gated CRF Loss", equations 2 to 4; differs from the paper in dividing by each pixel's sum
        of K, so that pixels in busy places count as others do.
    """
    height, width = images.shape[2:]
    seen, kernels = (seen == 1).to(images.dtype), []
    with torch.no_grad():
        sums = torch.zeros_like(seen)  # (B, H, W) of K over each pixel's window
        rows, columns = min(radius, height - 1), min(radius, width - 1)
        for down, across in ((y, x) for y in range(rows + 1) for x in range(-columns, columns + 1) if (y, x) > (0, 0)):
            # The pixels that have a partner this far down and across, and those partners.
            here = (..., slice(0, height - down), slice(max(0, -across), width - max(0, across)))
            there = (..., slice(down, height), slice(max(0, across), width - max(0, -across)))
            unlike = (images[here] - images[there]).square().mean(1)  # (B, H - down, W - |across|)
            kernel = torch.exp(-(down ** 2 + across ** 2) / (2 * reach ** 2) - unlike / (2 * contrast ** 2))
            kernels.append((here, there, kernel * seen[here] * seen[there]))
            sums[here] += kernels[-1][2]
            sums[there] += kernels[-1][2]
        heard = sums > 1e-6  # a pixel unlike all around it has no say
        inverse = torch.where(heard, 1 / sums, 0)
        around = torch.zeros_like(probabilities)  # what is normal around each pixel: A p, where the mean of p_i . p_j is p' A p
        for here, there, kernel in kernels:
            kernel = (kernel * (inverse[here] + inverse[there]) / 2)[:, None]  # A is symmetric
            around[here] += kernel * probabilities[there]
            around[there] += kernel * probabilities[here]
    # p' A p, with its gradient 2 A p: taken here, or autograd would keep every step of the loops above.
    agreement = ((2 * probabilities - probabilities.detach()) * around).sum()
    return (heard.sum() - agreement) / (heard.sum() if total is None else total).clamp(min=1)
