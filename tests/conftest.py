"What all tests share: one thread each, a cache folder of their own, and no pictures on a screen."
import gzip, hashlib, os, struct
from unittest.mock import patch
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


def idx(a):
    "The format of MNIST: big-endian numbers, then bytes"
    return struct.pack('>HBB', 0, 8, a.ndim) + struct.pack(f'>{a.ndim}I', *a.shape) + a.numpy().tobytes()

def md5(f): return hashlib.md5(f.read_bytes()).hexdigest()

@pytest.fixture
def mnist(tmp_path):
    "A folder with 240 digits in MNIST's form, and what is in it"
    import torchvision
    from cfg_edu.data import digits
    raw, (x, y) = tmp_path/'MNIST/raw', digits()
    raw.mkdir(parents=True)
    big = torch.nn.functional.interpolate(x, size=(28, 28)).add(1).mul(127.5).round().byte()[:,0]
    for name,i in dict(train=slice(200), t10k=slice(200, 240)).items():
        for kind,a in {'images-idx3': big[i], 'labels-idx1': y[i].byte()}.items():
            (raw/f'{name}-{kind}-ubyte.gz').write_bytes(gzip.compress(idx(a)))
    there = [(f.name, md5(f)) for f in sorted(raw.glob('*.gz'))]
    with patch.object(torchvision.datasets.MNIST, 'resources', there): yield tmp_path, big, y
