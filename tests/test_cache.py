"An image cache continues where it was killed, holds what was made, and never lies"
import json, os, shutil, subprocess, sys, time
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch
import numpy as np, pytest, torch
from cfg_edu import cache
from cfg_edu.cache import build_cache, cache_dls, open_cache
from cfg_edu.data import data_dls

parts, vocab = dict(train=range(40), valid=range(40, 45)), 'abc'

def coloured(items):
    "4×4 images of one level each"
    x = np.array([*items], np.uint8)[:,None,None,None].repeat(3, 1).repeat(4, 2).repeat(4, 3)
    return x, np.array([*items])%3

def build(folder, make=coloured, parts=parts, n_workers=1, **kwargs):
    return build_cache(folder, parts, make, 4, vocab, each=5, n_workers=n_workers, **kwargs)

def contents(d): return {str(f.relative_to(d)): f.read_bytes() for f in sorted(d.rglob('*')) if f.is_file() and f.name != '.lock'}

class Cut(Exception): pass

def until(k, made):
    "Makes `k` pieces, then breaks off"
    def make(items):
        if len(made) == k: raise Cut
        made.append(items)
        return coloured(items)
    return make

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return build(tmp_path_factory.mktemp('whole'))

# ---- what it is

def test_it_holds_what_was_made_in_ordinary_files(whole):
    x, y, meta = open_cache(whole)
    assert torch.equal(x, torch.arange(45, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4))
    assert torch.equal(y, torch.arange(45)%3) and y.dtype == torch.int64
    assert (meta['n'], meta['n_train'], meta['vocab'], meta['format']) == (45, 40, ['a', 'b', 'c'], 2)
    folder = whole/f"data-{meta['key']}"
    assert sorted(o.name for o in whole.iterdir()) == ['.lock', folder.name, 'meta.json']
    assert sorted(o.name for o in folder.iterdir()) == ['images.npy', 'labels.npy']
    assert np.array_equal(np.load(folder/'images.npy'), x) and np.array_equal(np.load(folder/'labels.npy'), y)

def test_writing_to_a_tensor_changes_no_file(whole):
    before = contents(whole)
    x, *_ = open_cache(whole)
    x[0] = 77
    assert x[0].unique().tolist() == [77] and open_cache(whole)[0][0].unique().tolist() == [0] and contents(whole) == before

def test_where_the_system_sets_no_memory_aside_it_is_mapped_to_read(whole, recwarn):
    mapped, asked = cache.open_memmap, []
    def short(f, mode):
        asked.append(mode)
        if mode == 'c': raise OSError(12, 'Cannot allocate memory')
        return mapped(f, mode)
    with patch.object(cache, 'open_memmap', short): x, y, _ = open_cache(whole)
    assert asked == ['c', 'r']*2 and x[7].unique().tolist() == [7] and not recwarn.list

def test_loaders_copy_nothing_and_give_the_batches_of_memory(whole):
    dls = cache_dls(whole, bs=8, seed=3, device='cpu')
    x, y, meta = open_cache(whole)
    assert (len(dls.train), [len(o.dataset) for o in dls.loaders], list(dls.vocab), dls.c) == (5, [40, 5], ['a', 'b', 'c'], 3)
    assert dls.train_ds.fingerprint == dls.valid_ds.fingerprint == meta['fingerprint']
    t, v = (dl.dataset.tensors[0] for dl in dls.loaders)
    assert v.data_ptr() - t.data_ptr() == 40*48                                        # views of one file
    ref = data_dls(x.clone(), y, ['a', 'b', 'c'], 8, 5, seed=3, device='cpu')
    for a,b in zip(dls.train, ref.train): assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    with pytest.raises(ValueError, match='bs must lie in 1…40'): cache_dls(whole, bs=41)

def test_the_fingerprint_is_of_the_contents(whole, tmp_path):
    mark = lambda d: open_cache(d)[2]['fingerprint']
    assert mark(build(tmp_path/'a', source='another date')) == mark(whole)
    def other(items):
        x, y = coloured(items)
        x[x == 17] = 18
        return x, y
    assert mark(build(tmp_path/'b', other)) != mark(whole)
    assert mark(build(tmp_path/'c', lambda i: (coloured(i)[0], 1-coloured(i)[1]//2))) != mark(whole)
    assert mark(build(tmp_path/'d', parts=dict(train=range(35), valid=range(35, 45)))) != mark(whole)

# ---- how it is made

@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('n_workers', [2, 3])
def test_workers_make_the_same_files(whole, tmp_path, n_workers):
    state = torch.get_rng_state()
    assert contents(build(tmp_path, n_workers=n_workers)) == contents(whole)
    assert torch.equal(torch.get_rng_state(), state)                                   # training's generator is not asked

def test_no_worker_is_this_process(whole, tmp_path):
    made = []
    assert contents(build(tmp_path, until(99, made), n_workers=0)) == contents(whole) and len(made) == 9

def test_finished_work_is_not_done_again(whole):
    build(whole, until(0, []))

@pytest.mark.parametrize('k', range(9))
def test_it_goes_on_wherever_it_was_cut_off(whole, tmp_path, k):
    made = []
    with pytest.raises(Cut): build(tmp_path, until(k, made))
    with pytest.raises(FileNotFoundError, match='is no finished image cache: cfg_prepare makes or continues it'): open_cache(tmp_path)
    for f in tmp_path.glob('pieces-*'): (f/'000099.npz.part').write_bytes(b'half a piece')
    build(tmp_path, until(99, made))
    assert made == [range(i, i+5) for i in range(0, 45, 5)] and contents(tmp_path) == contents(whole)

@pytest.mark.parametrize('name', ['images.npy', 'labels.npy', 'meta.json'])
def test_it_goes_on_between_the_last_files(whole, tmp_path, name):
    def dying(a, b, replace=os.replace):
        if Path(b).name == name: raise Cut
        replace(a, b)
    with patch.object(os, 'replace', dying), pytest.raises(Cut): build(tmp_path)
    with pytest.raises(FileNotFoundError): open_cache(tmp_path)
    assert contents(build(tmp_path, until(0, []))) == contents(whole)                  # no piece is made twice

def test_another_source_begins_anew_and_the_old_cache_stays_until_then(whole, tmp_path):
    build(tmp_path)
    old = contents(tmp_path)
    other = dict(train=range(100, 140), valid=range(140, 145))
    made = []
    for k in (0, 3, 8):
        with pytest.raises(Cut): build(tmp_path, until(k, made), other)
        assert {k: v for k,v in contents(tmp_path).items() if k in old} == old
        assert open_cache(tmp_path)[0][7].unique().tolist() == [7]
    seen, *_ = open_cache(tmp_path)
    build(tmp_path, parts=other)
    assert open_cache(tmp_path)[0][7].unique().tolist() == [107] and seen[7].unique().tolist() == [7]
    assert len([*tmp_path.iterdir()]) == 3                                             # nothing of the old one is left

def test_pieces_of_another_source_are_not_taken(whole, tmp_path):
    with pytest.raises(Cut): build(tmp_path, until(4, []), dict(train=range(100, 140), valid=range(140, 145)))
    with pytest.raises(Cut): build(tmp_path, until(2, []), source='another date')
    assert contents(build(tmp_path)) == contents(whole)

def test_a_reader_never_sees_two_caches_mixed(tmp_path):
    "meta.json changes in one stroke, and names the folder that it is about"
    build(tmp_path)
    written, other = cache.write_json, dict(train=range(100, 140), valid=range(140, 145))
    def checked(path, d):
        assert open_cache(tmp_path)[0][7].unique().tolist() == [7]                     # until the last moment
        written(path, d)
        assert open_cache(tmp_path)[0][7].unique().tolist() == [107]                   # from the next on
    with patch.object(cache, 'write_json', checked): build(tmp_path, parts=other)

def test_a_damaged_piece_is_named(tmp_path, whole):
    with pytest.raises(Cut): build(tmp_path, until(3, []))
    f = next(tmp_path.glob('pieces-*'))/'000001.npz'
    good = f.read_bytes()
    bit = bytearray(good)
    bit[200] ^= 1
    for bad in (good[:-40], bytes(bit), b'', b'nonsense'):
        f.write_bytes(bad)
        with pytest.raises(ValueError, match='000001.npz is damaged: remove it, and run it again'): build(tmp_path)
    f.unlink()
    assert contents(build(tmp_path)) == contents(whole)

def broken(items):
    if 20 in items: raise ValueError('20.png cannot be read')
    return coloured(items)

def ended(items):
    if 20 in items: os._exit(1)
    return coloured(items)

@pytest.mark.parametrize('n_workers', [1, 2])
def test_an_error_is_said_in_one_sentence(tmp_path, n_workers):
    with pytest.raises(ValueError) as e: build(tmp_path, broken, n_workers=n_workers)
    assert str(e.value) == '20.png cannot be read'

def test_the_death_of_a_worker_is_said_in_one_sentence(tmp_path, whole):
    with pytest.raises(OSError, match='a process that makes images was ended, perhaps for want of memory: run it again') as e:
        build(tmp_path, ended, n_workers=2)
    assert '\n' not in str(e.value)
    assert contents(build(tmp_path)) == contents(whole)

def floats(items): return coloured(items)[0]/255, coloured(items)[1]
def too_wide(items): return coloured(items)[0].repeat(2, 3), coloured(items)[1]
def last_colour(items): return coloured(items)[0].transpose(0, 2, 3, 1), coloured(items)[1]
def half_classes(items): return coloured(items)[0], coloured(items)[1] + .5
def other_classes(items): return coloured(items)[0], coloured(items)[1] + 1
def no_class(items): return coloured(items)[0], coloured(items)[1] - 1

@pytest.mark.parametrize('wrong', [floats, too_wide, last_colour, half_classes, other_classes, no_class])
def test_what_is_no_image_and_no_class_is_refused_with_the_first_piece(tmp_path, wrong):
    "It would be cut to bytes, or to integers, or read with another shape"
    with pytest.raises(ValueError, match=r'make must give uint8 \(n, \(3, 4, 4\)\) and classes below 3 \(n,\), got') as e: build(tmp_path, wrong)
    assert '\n' not in str(e.value) and not [*tmp_path.glob('*/*')]

def test_a_full_disk_is_said_with_the_file(tmp_path):
    with patch.object(os, 'fsync', side_effect=OSError(28, 'No space left on device')):
        with pytest.raises(OSError, match='no room is left on the disk.*000000.npz'): build(tmp_path)

# ---- where a process imports the script: macOS, Windows, and Linux from Python 3.14 on

script = '''
import multiprocessing, sys, numpy as np
multiprocessing.set_start_method(sys.argv[1], force=True)
from cfg_edu.cache import build_cache
def make(items):
    if sys.argv[3] == 'dies' and items[0].endswith('20'): __import__('os')._exit(1)
    x = np.array([int(o[-2:]) for o in items], np.uint8)
    return x[:,None,None,None].repeat(3, 1).repeat(4, 2).repeat(4, 3), x%3
def main():
    names = [f'{"a long path/"*200}{i:02}' for i in range(45)]       # more than a pipe holds
    build_cache(sys.argv[2], dict(train=names[:40], valid=names[40:]), make, 4, 'abc', each=5, n_workers=2)
'''
guard = "if __name__ == '__main__': "

def started(tmp_path, how, guard, what='lives'):
    (tmp_path/'script.py').write_text(script + guard + 'main()')
    return subprocess.run([sys.executable, tmp_path/'script.py', how, tmp_path/'c', what], capture_output=True, text=True, timeout=240)

@pytest.mark.parametrize('how', ['spawn', pytest.param('forkserver', marks=pytest.mark.slow)])
def test_a_script_without_a_guard_is_told_so(tmp_path, how):
    "Its child begins the script again, and must not wait for the lock that its parent holds"
    done = started(tmp_path, how, '')
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        "ValueError: a process that makes images cannot import the script: put what the script does under `if __name__ == '__main__':`")
    assert done.stderr.count("ValueError: the script is imported by a process that makes images: put what the script does under `if __name__ == '__main__':`") == 1

@pytest.mark.parametrize('how', ['forkserver', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers_that_are_not_forked_make_the_same_files(whole, tmp_path, how):
    "The parent of a forkserver's child is the server, which is no reason to end"
    done = started(tmp_path, how, guard)
    assert done.returncode == 0, done.stderr
    for a, b in zip(open_cache(tmp_path/'c')[:2], open_cache(whole)[:2]): assert torch.equal(a, b)

@pytest.mark.slow
@pytest.mark.parametrize('how', ['spawn', 'forkserver'])
def test_the_death_of_a_worker_that_is_not_forked(tmp_path, how):
    assert 'OSError: a process that makes images was ended' in started(tmp_path, how, guard, 'dies').stderr.splitlines()[-1]

# ---- kill -9, and two at once

fork = get_context('fork')

def test_kills_change_nothing(whole, tmp_path):
    n = fork.Value('i', 0)
    def slowly(items):
        time.sleep(.03)
        with n.get_lock(): n.value += 1
        return coloured(items)
    for _ in range(3):
        job, was = fork.Process(target=build, args=(tmp_path, slowly)), n.value
        job.start()
        while n.value < was+2: time.sleep(.002)
        job.kill()
        job.join()
        assert job.exitcode == -9
        with pytest.raises(FileNotFoundError): open_cache(tmp_path)
    build(tmp_path, slowly)
    assert 9 <= n.value <= 12 and contents(tmp_path) == contents(whole)               # at most one piece lost at each kill

def test_two_builders_get_along(whole, tmp_path):
    n = fork.Value('i', 0)
    def slowly(items):
        time.sleep(.01)
        with n.get_lock(): n.value += 1
        return coloured(items)
    jobs = [fork.Process(target=build, args=(tmp_path, slowly)) for _ in range(3)]
    for j in jobs: j.start()
    for j in jobs: j.join()
    assert [j.exitcode for j in jobs] == [0]*3 and n.value == 9 and contents(tmp_path) == contents(whole)

@pytest.mark.parametrize('side', [4, 200])                  # what a pipe holds, and what it does not
def test_workers_of_a_killed_builder_end(tmp_path, side):
    pids = tmp_path/'pids'
    pids.mkdir()
    def note(items):
        (pids/str(os.getpid())).touch()
        time.sleep(.02)
        return np.zeros((len(items), 3, side, side), np.uint8), np.array([*items])%3
    job = fork.Process(target=build_cache, args=(tmp_path/'c', dict(train=range(9000), valid=range(9000, 9005)), note, side, vocab), kwargs=dict(each=5, n_workers=2))
    job.start()
    while len([*pids.iterdir()]) < 2: time.sleep(.01)
    job.kill()
    job.join()
    def alive(): return [p.name for p in pids.iterdir() if Path(f'/proc/{p.name}').exists() and 'Z' not in Path(f'/proc/{p.name}/stat').read_text().split(')')[1].split()[0]]
    for _ in range(200):
        if not alive(): break
        time.sleep(.1)
    assert not alive()

# ---- what is damaged is named

@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path/'copy')
    return tmp_path/'copy', next((tmp_path/'copy').glob('data-*'))

@pytest.mark.parametrize('name', ['images.npy', 'labels.npy'])
def test_a_damaged_file_is_named_and_made_again(whole, copy, name):
    d, folder = copy
    good = (folder/name).read_bytes()
    for bad in (b'', good[:50], good[:-1], b'x'+good[1:]):
        (folder/name).write_bytes(bad)
        with pytest.raises(ValueError, match=f'{name} is cut short or damaged'): open_cache(d)
    (folder/name).unlink()
    with pytest.raises(FileNotFoundError, match=name): open_cache(d)
    assert contents(build(d)) == contents(whole)

def test_files_that_do_not_fit_together_are_refused(copy):
    d, folder = copy
    good = json.loads((d/'meta.json').read_text())
    for bad in (dict(n=44), dict(size=8), dict(n_train=45), dict(n_train=0), dict(n_train='x'), dict(vocab=['a', 'b']), dict(vocab=None),
            dict(n=10**12), dict(key=5), dict(format=1)):
        (d/'meta.json').write_text(json.dumps(good | bad))
        with pytest.raises((ValueError, FileNotFoundError), match='copy'): open_cache(d)
    for k in good:
        if k == 'fingerprint': continue
        (d/'meta.json').write_text(json.dumps({j: v for j,v in good.items() if j != k}))
        with pytest.raises(ValueError, match='is damaged'): open_cache(d)
    (d/'meta.json').write_text('{')
    with pytest.raises(ValueError, match='meta.json is damaged'): open_cache(d)
    (d/'meta.json').write_text(json.dumps(good))
    labels = (folder/'labels.npy').read_bytes()
    (folder/'labels.npy').write_bytes(labels[:-8] + (9).to_bytes(8, 'little'))
    with pytest.raises(ValueError, match='is damaged: it does not hold what meta.json says'): open_cache(d)

def test_a_cache_of_format_1_is_read_and_replaced(whole, tmp_path):
    "Made before 0.1: images.npy and labels.npy lay beside meta.json"
    x, y, meta = open_cache(whole)
    np.save(tmp_path/'images.npy', x.numpy())
    np.save(tmp_path/'labels.npy', y.numpy())
    old = dict(format=1, n=45, n_train=40, size=4, source='trial', key='0'*16, fingerprint='1'*16, vocab=['a', 'b', 'c'], sum='2'*16)
    (tmp_path/'meta.json').write_text(json.dumps(old))
    a, b, m = open_cache(tmp_path)
    assert torch.equal(a, x) and torch.equal(b, y) and m['fingerprint'] == '1'*16
    assert cache_dls(tmp_path, bs=8, device='cpu').train_ds.fingerprint == '1'*16
    assert contents(build(tmp_path)) == contents(whole)
