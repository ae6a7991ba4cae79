from histofuse.core.seeding import derive_seed, make_rng


def test_streams_differ_by_name_and_repeat_by_seed():
    assert derive_seed(1, "patches") == derive_seed(1, "patches")
    seeds = {derive_seed(s, n) for s in range(10) for n in ("patches", "patients", "1")}
    assert len(seeds) == 30
    assert make_rng(1, "a").random() == make_rng(1, "a").random()


def test_names_do_not_run_together():
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")
