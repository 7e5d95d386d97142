"""Sphinx: `cargo xtask docs` runs it on a copy of this folder, to which it adds the test report."""

import posixpath
import re

project = "calico-ebpf"
author = "The calico-ebpf authors"
copyright = "The calico-ebpf authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["requirements.txt"]
html_theme = "alabaster"
html_theme_options = {"description": "Calico's host agent with an eBPF dataplane", "fixed_sidebar": True}
html_show_copyright = False
html_copy_source = False
# Anchors as GitHub makes them, so that the pages work there, too.
myst_heading_anchors = 4

REPOSITORY = "https://github.com/calico-ebpf/calico-ebpf/blob/main/"
LINK_UPWARDS = re.compile(r"\]\((\.\./[^)\s]+)\)")


def link_to_repository(app, docname, source):
    """Makes links to files outside of the documentation lead to the repository."""

    def absolute(link):
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(docname), link.group(1)))
        inside = path.startswith("docs/")
        return link.group(0) if inside else f"]({REPOSITORY}{path})"

    source[0] = LINK_UPWARDS.sub(absolute, source[0])


def setup(app):
    app.connect("source-read", link_to_repository)
    return {"parallel_read_safe": True}
