"""onnx: what a graph says of the arrays in it: their shapes and dtypes, and what they are computed from."""

from __future__ import annotations

Shapes = dict[str, tuple]


def shapes_and_dtypes(graph) -> tuple[Shapes, dict[str, str]]:
    """The shape of every array whose rank is known, None for a size that is not, and the dtypes."""
    from onnx import helper

    types = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info)}
    shapes = {k: tuple(d.dim_value or None for d in t.shape.dim) for k, t in types.items() if t.HasField("shape")}
    shapes |= {q.name: tuple(q.dims) for q in graph.initializer}
    kinds = {k: t.elem_type for k, t in types.items() if t.elem_type} | {q.name: q.data_type for q in graph.initializer}
    return shapes, {k: helper.tensor_dtype_to_np_dtype(t).name for k, t in kinds.items()}


def source(graph, name: str, shapes: Shapes) -> tuple[str, list]:
    """The one array of its shape that a weight is computed from, and the nodes that compute it; no name where there is not one."""
    made = {k: n for n in graph.node for k in n.output}
    nodes, leaves, seen = [], [], [name]
    for k in seen:  # grows
        if k in made:
            nodes.append(made[k])
            seen += [q for q in made[k].input if q and q not in seen]
        else:
            leaves.append(k)
    arrays = {q.name for q in graph.initializer}
    alike = [k for k in leaves if k == name or (k in shapes and shapes[k] == shapes.get(name))]
    others = [k for k in leaves if k not in alike and k not in arrays]
    return ("", []) if len(alike) != 1 or others else (alike[0], nodes)


def sources(graph, given: dict[str, str], shapes: Shapes) -> dict[str, tuple[str, list]]:
    """`source` of each of the given arrays that has one to itself."""
    found = {k: source(graph, name, shapes) for k, name in given.items()}
    names = [name for name, _ in found.values()]
    return {k: (name, nodes) for k, (name, nodes) in found.items() if name and names.count(name) == 1}
