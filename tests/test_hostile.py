"Files made to do harm: nothing in them may run, memory stays bounded, and each is refused by name (Linux)."
import json, os, pickle, shutil, struct, sys, zipfile, zlib
from functools import partial
import numpy as np, pytest, torch
from apart import attempt
from cfg_edu import adm, adm256, cli, data, judges, metrics, nets, pictures, runs
from cfg_edu.training import diffusion_learner

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='forks, and bounds memory')
archive = [f'train_data_batch_{i}' for i in range(1, 11)] + ['val_data']


class Evil:
    "Makes a file when it is unpickled"
    def __init__(self, canary): self.canary = canary
    def __reduce__(self): return os.system, (f'touch {self.canary}',)


def npy(shape, descr='|u1'):
    "An .npy that claims `shape`, without its numbers"
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b' '*(-(len(head)+11)%64) + b'\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head


def bomb(path, name, head, size=2 << 30):
    "A zip whose member `name` is `head` and `size` zeros, a thousandth of that on the disk"
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z, z.open(name, 'w', force_zip64=True) as f:
        f.write(head)
        for _ in range(size >> 24): f.write(bytes(1 << 24))


def png(path, side):
    "A picture of side × side pixels in a few bytes"
    chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    path.parent.mkdir(parents=True, exist_ok=True)
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))


@pytest.fixture(scope='module')
def top(tmp_path_factory):
    "A folder with a small trained run in it"
    top = tmp_path_factory.mktemp('hostile')
    cli.cfg_train('digits', str(top/'run'), steps=2, every=1)
    return top


@pytest.fixture
def canary(tmp_path): return tmp_path/'canary'


def refused(f, p, canary, most=500):
    "`f(p)` names the file or folder `p` in its refusal, takes less than `most` MB, and runs nothing"
    said, mb = attempt(lambda: f(p), canary)
    assert said.startswith('refused') and p.name.split('.')[0] in said, said
    assert mb < most


prepare = lambda p, size=8: pictures.prepare(p, p.parent/'cache', size, 1, False)
statistics = lambda p: metrics.real_stats(p, 'digits')
samples = lambda p: cli.cfg_evaluate(str(p), data='digits')
def weights(p): return adm.load_weights(nets.unet_digits(), p)
def resume(p): return diffusion_learner(data.digits_dls(), nets.unet_digits()).fit_resumable(2, p)


def test_the_trap_works(canary):
    evil = pickle.dumps(Evil(canary))
    assert attempt(lambda: pickle.loads(evil), canary)[0] == 'RAN CODE'


@pytest.mark.parametrize('f', [weights, adm.load_adm, adm.load_adm_classifier, adm256.load_adm_upsampler], ids=['weights', 'adm', 'classifier', 'upsampler'])
@pytest.mark.parametrize('zipped', [False, True])
def test_weights_with_code(tmp_path, canary, f, zipped):
    p = tmp_path/'weights.pt'
    if zipped: torch.save(dict(a=Evil(canary)), p)
    else: p.write_bytes(pickle.dumps(Evil(canary)))
    refused(f, p, canary)


def test_a_checkpoint_with_code(tmp_path, canary):
    p = tmp_path/'last.ckpt'
    torch.save(dict(epochs=1, model=Evil(canary)), p)
    refused(resume, p, canary)


@pytest.mark.parametrize('body', ['code', struct.pack('<Q', 1 << 62) + b'{}'], ids=['code', 'a header of 2^62 bytes'])
def test_a_run_whose_weights_are_none(top, tmp_path, canary, body):
    p = tmp_path/'run'
    shutil.copytree(top/'run', p)
    (p/'ema.safetensors').write_bytes(pickle.dumps(Evil(canary)) if body == 'code' else body)
    refused(lambda p: runs.Run(p).model(), p, canary)


@pytest.mark.parametrize('key, value', [('net', '../../etc/passwd'), ('shape', [1, 10**6, 10**6]), ('n_classes', 10**10)])
def test_a_wrong_configuration(top, tmp_path, canary, key, value):
    p = tmp_path/'run'
    shutil.copytree(top/'run', p)
    c = json.loads((p/'config.json').read_text())
    (p/'config.json').write_text(json.dumps({**c, key: value}))
    refused(lambda p: runs.Run(p).model(), p, canary)


def test_a_configuration_nested_a_million_deep(top, tmp_path, canary):
    p = tmp_path/'run'
    shutil.copytree(top/'run', p)
    (p/'config.json').write_text('['*10**6)
    refused(lambda p: runs.Run(p).model(), p, canary)


bodies = {'nested a million deep': b'\x80\x04' + b'('*10**6 + b'.', 'a text that claims 2^50 bytes': b'\x80\x04\x8e' + struct.pack('<Q', 1 << 50) + b'abc.'}

@pytest.mark.parametrize('body', ['code', *bodies])
def test_the_archive(tmp_path, canary, body):
    p = tmp_path/'archive'
    p.mkdir()
    for n in archive: (p/n).write_bytes(bodies.get(body) or pickle.dumps(Evil(canary)))
    refused(prepare, p, canary)


@pytest.mark.parametrize('f', [prepare, statistics, samples], ids=['data', 'statistics', 'samples'])
def test_an_npz_of_objects_with_code(tmp_path, canary, f):
    p = tmp_path/'object.npz'
    np.savez(p, arr_0=np.array([Evil(canary)], object), arr_1=np.zeros(1), mu=np.array([Evil(canary)], object), sigma=np.zeros(1))
    refused(f, p, canary)


@pytest.mark.parametrize('f', [prepare, statistics, samples], ids=['data', 'statistics', 'samples'])
def test_an_npz_that_claims_more_than_there_is(tmp_path, canary, f):
    p = tmp_path/'claim.npz'
    with zipfile.ZipFile(p, 'w') as z:
        for n in ('arr_0', 'arr_1', 'mu', 'sigma'): z.writestr(f'{n}.npy', npy((10**12, 64, 64, 3)))
    refused(f, p, canary)


@pytest.mark.parametrize('f, name, head', [(partial(prepare, size=64), 'arr_0', npy((174_000, 64, 64, 3))), (samples, 'arr_0', npy((174_000, 64, 64, 3))),
                                           (statistics, 'mu', npy((268_000_000,), '<f8'))], ids=['data', 'samples', 'statistics'])
def test_two_gigabytes_in_two_megabytes(tmp_path, canary, f, name, head):
    p = tmp_path/'bomb.npz'
    bomb(p, f'{name}.npy', head)
    refused(f, p, canary)


@pytest.mark.parametrize('side', [20_000, 100_000])
def test_pictures_of_billions_of_pixels(tmp_path, canary, side):
    p = tmp_path/'pictures'
    png(p/'a'/'1.png', side)
    png(p/'b'/'2.png', side)
    refused(prepare, p, canary)


def test_a_cache_that_claims_a_million_millions(tmp_path, canary):
    p = tmp_path/'cache2'
    pictures.prepare(make_pictures(tmp_path), p, 8, 1, False)
    meta = json.loads((p/'meta.json').read_text())
    (p/'meta.json').write_text(json.dumps({**meta, 'n': 10**12}))
    refused(pictures.open_cache, p, canary)


def make_pictures(folder):
    from apart import pictures
    return pictures(folder/'pictures', 12)


def test_a_judge_with_code(tmp_path, canary, monkeypatch):
    "Its stored weights are replaced: it is made again, and nothing runs"
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path/'judges'))
    monkeypatch.setattr(judges.DigitsJudge, 'recipe', {**judges.DigitsJudge.recipe, 'n_epochs': 2})
    judges.DigitsJudge()
    files = [p for p in (tmp_path/'judges').rglob('*') if p.is_file()]
    assert files
    for p in files: p.write_bytes(pickle.dumps(Evil(canary)))
    said, _ = attempt(judges.DigitsJudge, canary)
    assert said == 'accepted', said
