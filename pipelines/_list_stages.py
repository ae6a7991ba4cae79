"""Lists the stages of ``dvc dag --dot`` in their order, each with the stages it needs.

``dvc dag`` draws every model of ``foreach`` side by side, four thousand columns wide.
"""

import re
import sys

import networkx as nx

EDGE = re.compile(r'"([^"@]+)[^"]*" -> "([^"@]+)[^"]*"')


def list_stages(dot: str) -> list[str]:
    """List one line a stage; needs that follow from others, and `code`, are left out."""
    edges = [edge for edge in EDGE.findall(dot) if "code" not in edge]
    needs = nx.transitive_reduction(nx.DiGraph(edges))
    width = max(map(len, needs), default=0)
    return [
        f"{stage:<{width}}  {', '.join(sorted(needs.predecessors(stage)))}".rstrip()
        for level in nx.topological_generations(needs)
        for stage in sorted(level)
    ]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in list_stages(sys.stdin.read()))
