"""The Settings tab: every key, every expression, every restriction."""

import json
import re
import shutil
import signal
import subprocess
import time
import unittest

import conditions
from staged import HERE, SECTION, beside, of_stage, settings

GENERATIONS = ("v2", "v4")
# The section's keys: manifests read them under these names.
KEYS = {
    "ebpf_mode": ("checkbox", True),
    "kernel_choice": ("radio", "plugin"),
    "kernel_failure_policy": ("radio", "iptables"),
    "as_number": ("text", "64512"),
    "ippool_cidr": ("text", "10.65.0.0/16"),
    "ippool_gateway": ("text", "10.65.0.1"),
    "workload_mtu": ("text", "1500"),
    "bgp_topology": ("radio", "reflectors"),
    "enable_external_peering": ("checkbox", False),
    "external_peers": ("textarea", ""),
    "metadata_addr": ("text", "127.0.0.1"),
    "metadata_port": ("text", "8775"),
    "etcd_endpoints": ("text", ""),
    "etcd_tls": ("checkbox", False),
    "etcd_ca": ("textarea", ""),
    "etcd_cert": ("textarea", ""),
    "etcd_key": ("textarea", ""),
    "log_level": ("select", "info"),
    "metrics_enabled": ("checkbox", False),
    "metrics_port": ("text", "9091"),
}
HOSTILE_LENGTH = 50_000
SECONDS = 1.0


class TooSlow(Exception):
    """An expression has not come to an end in time."""


def seconds_to_match(source, text):
    """Returns how long Python takes; gives up behind the limit."""

    def give_up(_signal, _frame):
        raise TooSlow

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    started = time.monotonic()
    try:
        re.match(source, text)
        return time.monotonic() - started
    except TooSlow:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def hostile(accepted):
    """Returns long texts that match almost: good ones and their characters over and over, and a bad end."""
    pieces = {" ", "\n", "\t", "1", "0", "a", "A", ".", "-", ":", "/", ",", "=", "+", "-----BEGIN CERTIFICATE-----", "a "}
    for text in accepted:
        if text.strip():
            pieces |= {text, text + " ", text + "\n", text + ",", text + ", ", " " + text + " ", text[:-1]}
    texts = []
    for piece in sorted(pieces - {""}):
        texts.append(piece * (HOSTILE_LENGTH // len(piece)) + "!")
    for text in sorted(text for text in accepted if text.strip()):
        for filling in (" ", "\n", "1", "a", "A"):
            texts.append(text + filling * HOSTILE_LENGTH + "!")
            texts.append(filling * HOSTILE_LENGTH + text + "!")
            half = len(text) // 2
            texts.append(text[:half] + filling * HOSTILE_LENGTH + text[half:] + "!")
    return texts


class Settings(unittest.TestCase):
    def test_both_packages_have_every_setting_with_its_type_and_default(self):
        for generation in GENERATIONS:
            found = {name: (entry["type"], entry["value"]) for name, entry in settings(generation).items()}
            self.assertEqual(found, KEYS, generation)

    def test_choices_contain_the_default_and_texts_have_an_expression(self):
        for generation in GENERATIONS:
            for name, entry in settings(generation).items():
                with self.subTest(generation=generation, setting=name):
                    if entry["type"] in ("radio", "select"):
                        self.assertIn(entry["value"], [choice["data"] for choice in entry["values"]])
                    if entry["type"] in ("text", "textarea"):
                        source = entry["regex"]["source"]
                        self.assertTrue(source.startswith("^") and source.endswith("$"), source)
                        self.assertRegex(entry["value"], source)
                        self.assertTrue(entry["regex"]["error"])

    def test_settings_are_in_the_order_of_their_weights(self):
        weights = [entry["weight"] for entry in settings("v4").values()]
        self.assertEqual(weights, sorted(set(weights)))

    def test_the_section_is_on_the_settings_tab_in_every_release(self):
        new = of_stage("v4", "environment_config.yaml")["attributes"]["metadata"]
        self.assertEqual(new["group"], "other")
        old = of_stage("v2", "environment_config.yaml")["attributes"]["metadata"]
        self.assertNotIn("group", old)

    def test_nothing_but_group_and_action_differs_between_the_packages(self):
        old = json.dumps(settings("v2")).replace('"action": "disable"', '"action": "hide"')
        self.assertEqual(json.loads(old), settings("v4"))


class Expressions(unittest.TestCase):
    lists = beside("settings.yaml")

    def test_every_expression_has_a_list_and_every_list_an_expression(self):
        with_expression = {name for name, entry in settings("v4").items() if "regex" in entry}
        self.assertEqual(with_expression, set(self.lists))

    def test_python_takes_and_refuses_as_the_lists_say(self):
        for name, lists in self.lists.items():
            source = settings("v4")[name]["regex"]["source"]
            for text in lists["accept"]:
                with self.subTest(setting=name, accept=text):
                    self.assertIsNotNone(re.match(source, text))
            for text in lists["reject"]:
                with self.subTest(setting=name, reject=text):
                    self.assertIsNone(re.match(source, text))

    def test_python_needs_linear_time_on_hostile_text(self):
        for name, lists in self.lists.items():
            source = settings("v4")[name]["regex"]["source"]
            for text in hostile(lists["accept"]):
                with self.subTest(setting=name, text=text[:60]):
                    self.assertLess(seconds_to_match(source, text), SECONDS)

    def test_an_expression_that_backtracks_is_noticed(self):
        accepted = ["edge-1:65001:192.0.2.1"]
        slow = r"^(\s*[a-z0-9-]+:[0-9]+:[0-9.]+\s*)*$"
        self.assertTrue(any(seconds_to_match(slow, text) > SECONDS for text in hostile(accepted)))

    def test_javascript_takes_and_refuses_the_same_in_linear_time(self):
        node = shutil.which("node") or shutil.which("nodejs")
        self.assertIsNotNone(node, "node is missing: cargo xtask setup")
        entries = {
            name: {
                "source": settings("v4")[name]["regex"]["source"],
                "accept": lists["accept"],
                "reject": lists["reject"],
                "hostile": hostile(lists["accept"]),
            }
            for name, lists in self.lists.items()
        }
        done = subprocess.run(
            [node, str(HERE / "settings.js")],
            input=json.dumps(entries),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Restrictions(unittest.TestCase):
    def look_up(self, values):
        def at(path):
            model, _, key = path.partition(":")
            if model == "cluster":
                return {"net_provider": "neutron"}[key]
            section, name, last = key.split(".")
            self.assertEqual((model, section, last), ("settings", SECTION, "value"), path)
            return values[name]

        return at

    def hidden(self, generation, **changes):
        values = {name: default for name, (_, default) in KEYS.items()}
        values.update(changes)
        found = set()
        for name, entry in settings(generation).items():
            for restriction in entry.get("restrictions", []):
                self.assertEqual(restriction["action"], "hide" if generation == "v4" else "disable")
                if conditions.evaluate(restriction["condition"], self.look_up(values)):
                    found.add(name)
        return found

    def test_what_does_not_apply_is_hidden(self):
        own_etcd = {"etcd_ca", "etcd_cert", "etcd_key"}
        rest = {"external_peers", "metrics_port"}
        for generation in GENERATIONS:
            self.assertEqual(self.hidden(generation), own_etcd | rest)
            self.assertEqual(
                self.hidden(generation, ebpf_mode=False), own_etcd | rest | {"kernel_choice", "kernel_failure_policy"}
            )
            self.assertEqual(self.hidden(generation, enable_external_peering=True), own_etcd | {"metrics_port"})
            self.assertEqual(self.hidden(generation, metrics_enabled=True), own_etcd | {"external_peers"})
            self.assertEqual(self.hidden(generation, etcd_tls=True), own_etcd | rest)
            self.assertEqual(self.hidden(generation, etcd_endpoints="http://a:1"), own_etcd | rest)
            self.assertEqual(self.hidden(generation, etcd_tls=True, etcd_endpoints="https://a:1"), rest)

    def test_the_section_is_for_neutron_only(self):
        for generation in GENERATIONS:
            metadata = of_stage(generation, "environment_config.yaml")["attributes"]["metadata"]
            condition = metadata["restrictions"][0]["condition"]
            self.assertFalse(conditions.evaluate(condition, lambda path: {"cluster:net_provider": "neutron"}[path]))
            self.assertTrue(conditions.evaluate(condition, lambda path: {"cluster:net_provider": "nova_network"}[path]))

    def test_the_language_is_read_as_fuel_reads_it(self):
        values = {"a:b": 1, "a:c-d.e": "x", "a:f": [1, 2]}
        for text, expected in {
            "a:b == 1 and a:c-d.e != 'y'": True,
            "not (a:b == 1) or a:c-d.e == 'x'": True,
            "a:b in a:f and false": False,
            "a:b == 2 or a:b == 1 and true": True,
            "a:missing? == null": True,
        }.items():
            self.assertEqual(conditions.evaluate(text, values.get), expected, text)
        for text in ("", "a:b ==", "a:b == 1 1", "(a:b == 1", "a:b = 1", "and a:b", "a:b == 'x"):
            with self.assertRaises(ValueError, msg=text):
                conditions.evaluate(text, values.get)


if __name__ == "__main__":
    unittest.main()
