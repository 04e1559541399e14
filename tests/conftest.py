"What all tests share: one thread each, a cache folder of their own, and no pictures on a screen."
import os
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest, torch

torch.set_num_threads(1)

@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    "Judges and images are kept for this session only, unless the caller has a folder for them"
    if 'CFG_EDU_CACHE' not in os.environ: os.environ['CFG_EDU_CACHE'] = str(tmp_path_factory.mktemp('cache'))

@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@pytest.fixture(autouse=True)
def tables():
    "What a dotted path adds to a table stays for one test"
    from cfg_edu import data, guidance, judges, nets, sampling
    all_of = data.rungs, guidance.rules, judges.judges, nets.presets, sampling.samplers
    before = [dict(t) for t in all_of]
    yield
    for t, b in zip(all_of, before):
        t.clear()
        t.update(b)


@pytest.fixture
def no_grad():
    with torch.no_grad(): yield
