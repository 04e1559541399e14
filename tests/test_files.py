"Files that are whole or absent, guarded folders, and what the cache folder keeps"
import errno, fcntl, os, warnings
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch
import numpy as np, pytest, torch
from cfg_edu import files
from cfg_edu.cache import build_cache, cache_dls, open_cache
from cfg_edu.cli import cfg_sample, cfg_train
from cfg_edu.files import cache_dir, cached, fingerprint, guarded, read_json, replacing, write_json

def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path/'sub'/'a.txt'
    with replacing(path) as f: f.write(b'old')
    with pytest.raises(KeyboardInterrupt), replacing(path) as f:
        f.write(b'ne')
        raise KeyboardInterrupt
    assert path.read_bytes() == b'old' and os.listdir(path.parent) == ['a.txt']

def test_bytes_reach_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    steps, sync, rename = [], os.fsync, os.replace
    def synced(fd):
        steps.append(('fsync', os.fstat(fd).st_size))
        sync(fd)
    def renamed(*a):
        steps.append('replace')
        rename(*a)
    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(os, 'replace', renamed)
    with replacing(tmp_path/'a') as f: f.write(b'new')
    assert steps == [('fsync', 3), 'replace']

@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_said_with_the_file(tmp_path, code):
    (tmp_path/'a').write_bytes(b'old')
    with patch.object(os, 'fsync', side_effect=OSError(code, 'full')), pytest.raises(OSError) as e:
        with replacing(tmp_path/'a') as f: f.write(b'new')
    assert 'no room is left on the disk' in str(e.value) and str(tmp_path/'a') in str(e.value)
    assert os.listdir(tmp_path) == ['a'] and (tmp_path/'a').read_bytes() == b'old'

def test_another_error_of_the_disk_stays_itself(tmp_path):
    with patch.object(os, 'fsync', side_effect=OSError(errno.EIO, 'Input/output error')):
        with pytest.raises(OSError, match='Input/output'), replacing(tmp_path/'a') as f: f.write(b'new')

def test_settings_return_and_damage_is_named(tmp_path):
    path = tmp_path/'a.json'
    write_json(path, dict(lam=1.5, name='λ', none=None, many=[1, 2]))
    assert read_json(path) == dict(lam=1.5, name='λ', none=None, many=[1, 2])
    for bad in (b'', b'{', b'[]', b'3', b'\xff', b'['*100_000):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match='a.json is damaged'): read_json(path)
    with pytest.raises(FileNotFoundError): read_json(tmp_path/'b.json')

def _hold(folder, entered, leave):
    with guarded(folder):
        entered.set()
        leave.wait(20)

def test_a_folder_is_for_one_process(tmp_path):
    ctx = get_context('fork')
    entered, leave = ctx.Event(), ctx.Event()
    job = ctx.Process(target=_hold, args=(tmp_path, entered, leave))
    job.start()
    assert entered.wait(10)
    with pytest.raises(ValueError, match='another process works in .*: wait, or give another'), guarded(tmp_path, wait=False): pass
    leave.set()
    with guarded(tmp_path): pass                       # waits until it is free
    job.join()
    with guarded(tmp_path, wait=False): pass

def test_a_killed_process_leaves_the_folder(tmp_path):
    ctx = get_context('fork')
    entered, leave = ctx.Event(), ctx.Event()
    job = ctx.Process(target=_hold, args=(tmp_path, entered, leave))
    job.start()
    assert entered.wait(10)
    job.kill()
    job.join()
    with guarded(tmp_path, wait=False): pass

codes = 'ENOSYS', 'ENOLCK', 'EOPNOTSUPP', 'ENOTSUP'            # Lustre without -o flock, NFS, FUSE

def no_locks(code):
    "What such a file system answers"
    def no(*_): raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
    return patch.multiple(fcntl, flock=no, lockf=no)

@pytest.mark.parametrize('wait', [True, False])
@pytest.mark.parametrize('code', codes)
def test_without_locks_there_is_a_warning(tmp_path, code, wait):
    "One, which names the folder; and nothing is left that would keep others out when this process is killed"
    with no_locks(code), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with guarded(tmp_path, wait), guarded(tmp_path, wait): pass
    assert {str(w.message) for w in said} == {f'no locks in {tmp_path}: let no second process work there'}

@pytest.mark.parametrize('code', codes[:3])
def test_all_goes_on_without_locks(tmp_path, own, code):
    folder = partial(build_cache, parts=dict(train=range(8), valid=range(2)), make=four, size=4, vocab='a', n_workers=1)
    with no_locks(code), pytest.warns(UserWarning, match='no locks in'):
        assert len(open_cache(folder(tmp_path/'c'))[0]) == 10 and folder(tmp_path/'c') == tmp_path/'c'
        cfg_train('moons', out=tmp_path/'r', steps=2, bs=8)
        assert len(cfg_sample(tmp_path/'r', n=3, n_steps=2)[0]) == 3
        assert cached('x', lambda: dict(a=torch.ones(2)))['a'].tolist() == [1, 1] and (own/'x.safetensors').exists()

def four(items): return np.full((len(items), 3, 4, 4), 200, np.uint8), np.zeros(len(items), int)

@pytest.mark.parametrize('name', ['with a space', 'Übungen_дом_图', "it's [a] {b} 50%", 'link', 'relative'])
def test_folders_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name == 'link': (tmp_path/name).symlink_to((tmp_path/'there').absolute()); (tmp_path/'there').mkdir()
    folder = Path(name) if name == 'relative' else tmp_path/name
    build_cache(folder/'c', dict(train=range(8), valid=range(2)), four, 4, 'a', n_workers=1)
    assert len(cache_dls(folder/'c', 2, device='cpu').train_ds) == 8
    cfg_train('moons', out=folder, steps=2, bs=8)
    cfg_sample(folder, n=3, n_steps=2)
    assert {f.suffix for f in folder.glob('samples_*')} == {'.npz', '.png'} and not [*folder.glob('parts*')]

def test_a_file_is_no_folder(tmp_path):
    (tmp_path/'f').write_text('')
    for use in (lambda: build_cache(tmp_path/'f', dict(train=range(8), valid=range(2)), four, 4, 'a', n_workers=1), lambda: cfg_train('moons', out=tmp_path/'f', steps=2, bs=8)):
        with pytest.raises(NotADirectoryError, match='f is a file: give a folder'): use()

def test_a_finished_cache_is_read_where_nobody_may_write(tmp_path):
    build = partial(build_cache, tmp_path/'c', dict(train=range(8), valid=range(2)), four, 4, 'a', n_workers=1)
    build()
    with patch.object(files.FileLock, 'acquire', side_effect=PermissionError(errno.EACCES, 'denied')):
        assert build() == tmp_path/'c'
        with pytest.raises(PermissionError): build(source='another')

def test_a_folder_that_cannot_be_guarded_is_an_error(tmp_path):
    with patch.object(files.FileLock, 'acquire', side_effect=PermissionError(errno.EACCES, 'denied')):
        with pytest.raises(PermissionError), guarded(tmp_path): pass

def test_the_cache_folder_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', '/mine')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert cache_dir() == Path('/mine')
    monkeypatch.delenv('CFG_EDU_CACHE')
    assert cache_dir() == Path('/xdg/cfg_edu')
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_dir() == Path.home()/'.cache/cfg_edu'

def test_a_fingerprint_sees_value_shape_type_and_order():
    a = torch.arange(6.)
    assert fingerprint(a) == fingerprint(a.clone()) and len(fingerprint(a)) == 16
    others = [a, a+1e-6, a.view(2, 3), a.view(torch.int32), a.flip(0)]
    assert len({fingerprint(o) for o in others}) == 5
    assert len({fingerprint(a, 'x'), fingerprint(a, 'y'), fingerprint(a)}) == 3
    assert fingerprint(a.requires_grad_()) == fingerprint(torch.arange(6.))

@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv('CFG_EDU_CACHE', str(tmp_path))
    return tmp_path

def test_tensors_are_made_once(own):
    made = []
    def make():
        made.append(1)
        return dict(b=torch.arange(3), a=torch.ones(2, 2).T)
    first, second = cached('x', make), cached('x', make)
    assert len(made) == 1 and list(second) == ['a', 'b']
    for k in first: assert torch.equal(first[k], second[k])

def test_a_damaged_file_is_made_again(own):
    def make(): return dict(a=torch.arange(1000.))
    cached('x', make)
    path = own/'x.safetensors'
    good = path.read_bytes()
    bit = bytearray(good)
    bit[-5] ^= 1
    for bad in (b'', good[:50], good[:-1], bytes(bit)):
        path.write_bytes(bad)
        assert torch.equal(cached('x', make)['a'], torch.arange(1000.))
        assert path.read_bytes() == good

def test_where_nothing_can_be_kept_it_warns_and_goes_on(own, monkeypatch):
    (own/'file').write_text('')
    monkeypatch.setenv('CFG_EDU_CACHE', str(own/'file'))
    with pytest.warns(UserWarning, match='x could not be kept'): ts = cached('x', lambda: dict(a=torch.ones(2)))
    assert torch.equal(ts['a'], torch.ones(2))

def _keep(name):
    cached(name, lambda: dict(a=torch.full((300_000,), 2.)))

def test_many_may_keep_the_same_at_once(own):
    jobs = [get_context('fork').Process(target=_keep, args=('x',)) for _ in range(4)]
    for j in jobs: j.start()
    for j in jobs:
        j.join()
        assert j.exitcode == 0
    assert {f.name for f in own.iterdir()} <= {'x.safetensors', '.lock'}
    assert cached('x', None)['a'].unique().tolist() == [2.]
