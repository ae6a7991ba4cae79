"""A backbone whose embedding is pooled from the maps of several of its stages."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from histofuse.core.errors import Fault, InputError
from histofuse.models.stages import list_stages


class PooledLevels(nn.Module):
    """Images -> logarithms of the mean and maximum over the positions of each level's maps.

    Activations are skewed; log(1 + |x|) with the sign of x brings them closer to a normal
    distribution, which a linear head and its penalty like.

    Attributes:
        network: Images -> the maps of each level; what only later stages need is left out.
    """

    def __init__(self, network: nn.Module, levels: list[str]) -> None:
        super().__init__()
        self.network = _cut(network, levels)

    def forward(self, x: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch width"]:
        """Compute the pooled features, level by level."""
        tokens = [_list_positions(maps) for maps in self.network(x)]
        pooled = torch.cat([p for t in tokens for p in (t.mean(1), t.amax(1))], dim=1)
        return pooled.abs().log1p().copysign(pooled)


def _list_positions(maps: Tensor) -> Float[Tensor, "batch positions channels"]:
    """Bring square maps, channels first or last, and tokens into one form."""
    if maps.ndim == 3:
        return maps
    channels_first = maps.shape[2] == maps.shape[3]
    return maps.flatten(2).transpose(1, 2) if channels_first else maps.flatten(1, 2)


class _StageTracer(fx.Tracer):
    """Follows a forward pass down to the stages, which stay modules that can be hooked."""

    def __init__(self, stages: set[str]) -> None:
        super().__init__()
        self._stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._stages or super().is_leaf_module(
            m, module_qualified_name
        )


def _cut(network: nn.Module, levels: list[str]) -> fx.GraphModule:
    """Make a network that returns the outputs of some of its stages.

    Raises:
        InputError: If a level is no stage, or the stages cannot be followed one by one.
    """
    stages = [stage.name for stage in list_stages(network)]
    where = "params.yaml, levels"
    if unknown := [level for level in levels if level not in stages]:
        problem = f"{', '.join(unknown)}: no stages of this backbone"
        raise InputError([Fault(where, problem, f"some of: {', '.join(stages)}")])
    try:
        graph = _StageTracer(set(stages)).trace(network)
    except (TraceError, TypeError, ValueError, RuntimeError) as error:
        problem = f"the backbone cannot be followed through its stages ({error})"
        raise InputError([Fault(where, problem, "another backbone")]) from None
    outputs = {node.target: node for node in graph.nodes if node.op == "call_module"}
    (end,) = graph.find_nodes(op="output")
    end.args = (tuple(outputs[level] for level in levels),)
    cut = fx.GraphModule(network, graph)
    cut.graph.eliminate_dead_code()
    cut.delete_all_unused_submodules()
    cut.recompile()
    return cut
