from graphlib import TopologicalSorter

import grimp


def test_no_modules_import_each_other():
    graph = grimp.build_graph("histofuse", cache_dir=None, exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a circle
