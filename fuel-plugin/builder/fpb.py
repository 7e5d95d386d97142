"""Starts fuel-plugin-builder 4.2.0 on a Python of today.

The builder is of 2017 and was written for Python 2.7. What it needs from there is put in place here, in this process
only: its files stay as they were published. Arguments are the builder's own: --check DIR, --build DIR.
"""

import builtins
import os

import yaml

from fuel_plugin_builder import errors, version_mapping
from fuel_plugin_builder.actions import build
from fuel_plugin_builder.utils import which


def _text(value, encoding="utf-8"):
    """Stands for the type that Python 2 called unicode, as the builder calls it: on text and on bytes."""
    return value.decode(encoding) if isinstance(value, bytes) else str(value)


def _load_with_safe_default(load):
    """Newer PyYAML wants to be told how; the builder reads nothing but plain data."""

    def wrapper(stream, Loader=yaml.SafeLoader):
        return load(stream, Loader=Loader)

    return wrapper


def _plugin_for_version(version):
    """As the builder's own, which takes the first element of what filter() returned."""
    for entry in version_mapping.get_mapping():
        if entry["version"] == version:
            return entry
    raise errors.WrongPackageVersionError('Wrong package version "%s"' % version)


def _check_requirements(builder):
    """As the builder's own, which takes a filter() that found nothing for one that found something."""
    missing = [command for command in builder.requires if not which(command)]
    if missing:
        raise errors.FuelCannotFindCommandError("Cannot find commands %s" % ", ".join(missing))


def _sorted_walk(walk):
    """The order of a directory is the file system's, and would be in the package."""

    def wrapper(top, *arguments, **options):
        for root, directories, files in walk(top, *arguments, **options):
            directories.sort()
            yield root, directories, sorted(files)

    return wrapper


builtins.unicode = _text
yaml.load = _load_with_safe_default(yaml.load)
os.walk = _sorted_walk(os.walk)
version_mapping.get_plugin_for_version = _plugin_for_version
build.BaseBuildPlugin._check_requirements = _check_requirements

from fuel_plugin_builder import cli  # noqa: E402  (after what it needs)

if __name__ == "__main__":
    cli.main()
