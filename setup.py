from configparser import ConfigParser
import shlex
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
status = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable'][int(cfg['status'])-1]
words = lambda key: shlex.split(cfg.get(key, ''))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=open('README.md', encoding='utf-8').read(), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], keywords=cfg['keywords'], license='Apache-2.0',
    classifiers=[f'Development Status :: {status}', f"Intended Audience :: {cfg['audience']}", f"Natural Language :: {cfg['language']}",
                 'Programming Language :: Python :: 3'],
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path']+'.*']), include_package_data=True, zip_safe=False,
    python_requires=f">={cfg['min_python']}", install_requires=words('requirements'), extras_require={k: words(f'{k}_requirements') for k in ('dev', 'hub')},
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': [f"{cfg['lib_path']} = {cfg['lib_path']}._modidx:d"]},
)
