"""Adam by PyTorch's fused kernel.

`torch.optim.Adam` calls the same kernel with the same numbers, but first imports the compiler
behind `torch.compile`, a second of CPU time in each training process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from histofuse.training.fitting.recipe import ParameterGroup


class Adam:
    """Adam with L2 penalty; parameters without a gradient stay as they are."""

    def __init__(self, groups: Sequence[ParameterGroup], weight_decay: float) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(group.parameters), "lr": group.learning_rate} for group in groups
        ]
        self._weight_decay = weight_decay
        # Parameter -> mean of its gradients, mean of their squares, number of steps.
        self._state: dict[nn.Parameter, list[Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change each parameter by its gradient."""
        for group in self.param_groups:
            learning = [p for p in group["params"] if p.grad is not None]
            if not learning:
                continue
            means, squares, steps = map(list, zip(*map(self._read_state, learning), strict=True))
            torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
            torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
                learning,
                [p.grad for p in learning],
                means,
                squares,
                [],
                steps,
                lr=group["lr"],
                beta1=0.9,
                beta2=0.999,
                weight_decay=self._weight_decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> list[list[Tensor]]:
        """Return the state of each parameter, in the order of the groups; empty before a step."""
        return [self._state.get(parameter, []) for parameter in self._parameters]

    def load_state_dict(self, state: Sequence[Sequence[Tensor]]) -> None:
        """Take the state of each parameter."""
        for parameter, values in zip(self._parameters, state, strict=True):
            if values:
                self._state[parameter] = [value.to(parameter.device) for value in values]

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _read_state(self, parameter: nn.Parameter) -> list[Tensor]:
        if parameter not in self._state:
            steps = torch.zeros((), device=parameter.device)
            self._state[parameter] = [*(torch.zeros_like(parameter) for _ in range(2)), steps]
        return self._state[parameter]
