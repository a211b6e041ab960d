"""The adaptation of the UAL paper, as it is published, to set beside ours: kernel and network learned together.

From a fusion Z~ that was made without knowing the kernel, and a Gaussian kernel, 1500 steps of

    L1(P Z^ - X) + L1(H(Z^) - Y),   Z^ = Adaptation(Z~), H = Degradation        (Zhang et al., CVPR 2020, section 3.3)

by Adam: 9e-5 with weight decay 1e-3 for the adaptation network, 1e-4 with 1e-5 for the kernel, as in the authors' code.
No early stop: the last iterate is the answer. The adaptation's last layer begins at zero, so step 0 is the fusion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.degrade import respond
from models.ual import Adaptation, Degradation

STEPS = 1500


def paper_schedule(
    fused: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    response: torch.Tensor,
    scale: int,
    on_step: Callable[[int, torch.Tensor], None],
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> torch.Tensor:
    """Adapt one pair.

    Args:
        fused: (1, b, s*h, s*w) the fusion to begin from.
        y: (1, b, h, w).
        x: (1, m, s*h, s*w).
        response: (m, b).
        scale: s.
        on_step: called with the number of steps done and the answer so far, from (0, fused) on.
        steps: how many.
        seed: of the network's weights.

    Returns:
        (1, b, s*h, s*w).
    """
    torch.manual_seed(seed)
    adaptation, degradation = Adaptation(fused.shape[1]), Degradation(scale)
    optimiser = torch.optim.Adam(
        [
            {"params": adaptation.parameters(), "lr": 9e-5, "weight_decay": 1e-3},
            {"params": degradation.parameters(), "lr": 1e-4, "weight_decay": 1e-5},
        ]
    )
    for step in range(steps):
        z = adaptation(fused)
        on_step(step, z.detach())
        loss = (respond(z, response) - x).abs().mean() + (degradation(z) - y).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        answer: torch.Tensor = adaptation(fused)
    on_step(steps, answer)
    return answer
