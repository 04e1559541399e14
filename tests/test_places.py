"Names and places as people have them: letters beyond ASCII, spaces, links, relative paths and ~, and a machine whose text is not UTF-8."
import inspect, json, os, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from cfg_edu import cli
from cfg_edu.cache import open_cache
from cfg_edu.runs import read_rows, Run

names = 'café', 'Tōkyō', 'tea and milk', '猫'
small = dict(steps=1, bs=4)


def pictures(folder, names=names):
    for c in names:
        for i in range(8):
            f = Path(folder)/c/f'{i} é.png'
            f.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)).save(f)
    return folder


def everything(top, pics, run='run é'):
    "All five commands, in `top`"
    cache = cli.cfg_prepare(pics, out=f'{top}/a cache é', size=16)
    run = cli.cfg_train('images', path=cache, out=f'{top}/{run}', **small)
    cli.cfg_sample(run, n=4, n_steps=2)
    cli.cfg_sample(run, n=12, n_steps=2, out=f'{top}/mine é.npz')
    eye = dict(path=cache, judge='eye_of_places.Averages', n=10, n_steps=2)
    cli.cfg_evaluate(run, **eye)
    cli.cfg_evaluate(f'{top}/mine é.npz', data='images', path=cache, judge='eye_of_places.Averages')
    rows = cli.cfg_tradeoff('images', out=run, ws='0', **eye)
    return cache, run, rows


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(Path(__file__).with_name('averages.py'), 'eye_of_places.py')
    return tmp_path


def places(here):
    "Ways to name one folder"
    (here/'far').mkdir()
    yield str(here/'with space')
    yield 'relative é/猫'
    yield './a/../b'
    os.symlink(here/'far', here/'link', target_is_directory=True)
    yield 'link'
    yield '~/of home'
    yield Path('~')/'a Path'


def test_places(here, monkeypatch):
    monkeypatch.setenv('HOME', str(here/'home'))
    monkeypatch.setenv('USERPROFILE', str(here/'home'))
    pics = pictures(here/'pics')
    for top in places(here):
        cache, run, rows = everything(top, pics)
        at = Path(os.path.expanduser(top))
        assert open_cache(at/'a cache é')[2]['vocab'] == sorted(names) and Run(at/'run é').finished and len(rows) == 1
        assert {p.name for p in (at/'run é').glob('*.npz')} == {'samples_w1_seed0_n=4_n_steps=2.npz'} and len(read_rows(at/'run é'/'evaluate.csv')) == 1
    assert not (here/'~').exists() and (here/'home'/'of home').exists()


script = '''
import locale, sys, os
print(locale.getencoding())
from pathlib import Path
from cfg_edu import cli
from cfg_edu.cache import open_cache
sys.path.append('')
exec(Path('everything.py').read_text(encoding='utf-8'))
cache, run, rows = everything('made', 'pics', 'run')     # safetensors reads no path whose bytes are not UTF-8
print(len(rows), len(open_cache(cache)[2]['vocab']), ascii(open_cache('other')[2]['vocab']))
'''

@pytest.mark.skipif(not shutil.which('localedef') or sys.version_info < (3, 11), reason='no localedef here to make the locale with')
def test_text_that_is_not_utf8(here):
    "As on Windows: what one machine wrote in UTF-8 the other reads, and what it writes is read in UTF-8"
    made = subprocess.run(['localedef', '-i', 'en_US', '-f', 'CP1252', str(here/'en_US.CP1252')], capture_output=True)
    if not (here/'en_US.CP1252').exists(): pytest.skip(f'localedef made no locale: {made.stderr[-200:]}')
    pictures('pics')
    cli.cfg_prepare('pics', out='other', size=16)
    meta = json.loads(Path('other/meta.json').read_text(encoding='utf-8'))
    Path('other/meta.json').write_text(json.dumps(meta, ensure_ascii=False), encoding='utf-8')     # as earlier versions wrote it
    Path('everything.py').write_text(f'small = {small}\n' + inspect.getsource(everything), encoding='utf-8')
    Path('script.py').write_text(script, encoding='utf-8')
    env = {**os.environ, 'LOCPATH': str(here), 'LC_ALL': 'en_US.CP1252', 'PYTHONUTF8': '0'}
    for k in ('PYTHONIOENCODING', 'LANG', 'LANGUAGE'): env.pop(k, None)
    run = subprocess.run([sys.executable, '-W', 'ignore', 'script.py'], capture_output=True, env=env)
    said = run.stdout.decode('cp1252', 'replace').splitlines()
    if said[0].lower() != 'cp1252': pytest.skip(f'Python takes that locale for {said[0]}')
    assert run.returncode == 0, run.stderr.decode('cp1252', 'replace')[-2000:]
    assert said[-1] == f'1 4 {ascii(sorted(names))}'                                # the other machine's names, letter by letter
    there = Path('made/run')
    assert Run(there).config['n_classes'] == 4 and len(read_rows(there/'evaluate.csv')) == len(read_rows(there/'tradeoff.csv')) == 1


def test_a_terminal_that_knows_ascii_alone(here):
    "A script that calls a command, its output in a file"
    Path('script.py').write_text("from cfg_edu.cli import cfg_train\ncfg_train('moons', out='猫', steps=1, bs=8)\n", encoding='utf-8')
    run = subprocess.run([sys.executable, '-W', 'ignore', 'script.py'], capture_output=True, text=True, env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    assert run.returncode == 0 and '\\u732b: trained in' in run.stdout and Run('猫').finished, run.stderr
