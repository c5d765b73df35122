"""Let setuptools read setup.cfg, where everything is."""

from setuptools import setup

setup()
