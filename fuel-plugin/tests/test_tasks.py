"""The tasks of both packages: their order, their conditions, their manifests."""

import re
import unittest

import conditions
import fuel_yaql
import graph
from staged import SECTION, beside, of_stage, stage

CORE = beside("core_tasks.yaml")
CONTROLLERS = ["primary-controller", "controller"]
# In this order where they are on one node.
ORDER = [
    "calico-settings-check",
    "calico-hiera-override",
    "calico-kernel",
    "calico-kernel-reboot",
    "calico-kernel-verify",
    "calico-etcd",
    "calico-neutron-server",
    "calico-networks",
]
NOT_WANTED = {
    "primary-openstack-network-plugins-l2",
    "openstack-network-plugins-l2",
    "openstack-network-networks",
    "openstack-network-routers",
    "openstack-network-routers-ha",
    "primary-openstack-network-agents-l3",
    "openstack-network-agents-l3",
    "openstack-network-agents-sriov",
    "primary-openstack-network-agents-dhcp",
    "openstack-network-agents-dhcp",
    "primary-openstack-network-agents-metadata",
    "openstack-network-agents-metadata",
}


def manifests_of(tasks):
    return {
        task["parameters"]["puppet_manifest"] for task in tasks if task["type"] == "puppet"
    } - {"/etc/puppet/modules/osnailyfacter/modular/hiera/hiera.pp"}


class Graph(unittest.TestCase):
    tasks = of_stage("v4", "deployment_tasks.yaml")

    def setUp(self):
        self.by_id = {task["id"]: task for task in self.tasks}
        self.before = graph.on_nodes(graph.merged(CORE["9.x"], self.tasks))

    def assert_before(self, first, second, node, first_node=None):
        self.assertIn((first_node or node, first), graph.all_before(self.before, (node, second)), (first, second))

    def test_the_graph_with_the_tasks_of_fuel_has_no_circle(self):
        self.assertEqual(len(graph.order(self.before)), len(self.before))

    def test_a_circle_is_noticed(self):
        wrong = {"id": "wrong", "groups": ["compute"], "requires": ["calico-dataplane"], "required_for": ["hiera"]}
        with self.assertRaisesRegex(ValueError, "circle"):
            graph.order(graph.on_nodes(graph.merged(CORE["9.x"], self.tasks + [wrong])))

    def test_every_name_is_a_task_of_ours_or_of_fuel(self):
        for release in ("8.0", "9.x"):
            core = CORE[release]
            known = set(self.by_id) | set(core["stages"]) | set(core["tasks"]) | set(core.get("absent", []))
            for task in self.tasks:
                named = set(task["requires"]) | set(task["required_for"])
                named |= {entry["name"] for entry in task.get("cross-depends", [])}
                self.assertLessEqual(named, known, (release, task["id"]))

    def test_ids_are_unique_and_versions_are_those_that_fuel_9_1_takes(self):
        self.assertEqual(len(self.by_id), len(self.tasks))
        self.assertEqual({task["version"] for task in self.tasks}, {"2.1.0"})
        self.assertFalse(of_stage("v4", "tasks.yaml"))

    def test_the_kernel_is_decided_about_before_the_network(self):
        for node in ("4", "5"):
            for first, second in [
                ("hiera", "calico-settings-check"),
                ("calico-settings-check", "calico-kernel"),
                ("setup_repositories", "calico-kernel"),
                ("plugins_setup_repositories", "calico-kernel"),
                ("calico-kernel", "calico-kernel-reboot"),
                ("calico-kernel-reboot", "calico-kernel-verify"),
                ("calico-kernel-verify", "netconfig"),
                ("calico-hiera-override", "globals"),
            ]:
                self.assert_before(first, second, node)
            self.assertNotIn((node, "netconfig"), graph.all_before(self.before, (node, "calico-kernel-verify")))

    def test_nothing_is_changed_before_the_settings_are_checked(self):
        for node, name in self.before:
            if name.startswith("calico-") and name != "calico-settings-check":
                self.assert_before("calico-settings-check", name, node)

    def test_a_dataplane_comes_behind_etcd_bird_and_the_driver(self):
        for node in ("4", "5"):
            for controller in ("1", "2", "3"):
                self.assert_before("calico-etcd", "calico-dataplane", node, controller)
                self.assert_before("calico-neutron-server", "calico-dataplane", node, controller)
            for name in ("calico-bird", "calico-dhcp-agent", "calico-nova-metadata", "calico-no-ovs"):
                self.assert_before(name, "calico-dataplane", node)
            self.assert_before("calico-dataplane", "enable_nova_compute_service", node)

    def test_no_member_of_etcd_waits_for_another_node(self):
        # A member becomes healthy only with others: one that waited for the first to be done would wait for ever.
        for node in ("1", "2", "3"):
            others = {place for place in graph.all_before(self.before, (node, "calico-etcd")) if place[0] != node}
            self.assertEqual({name for _, name in others if name.startswith("calico-")}, set())

    def test_the_agents_of_open_vswitch_are_skipped_and_nothing_else(self):
        skipped = {task["id"] for task in self.tasks if task["type"] == "skipped"}
        self.assertEqual(skipped, NOT_WANTED)
        self.assertEqual({name for name in self.by_id if not name.startswith("calico-")}, NOT_WANTED)

    def test_whatever_depends_on_the_other_nodes_runs_at_every_deployment(self):
        kernel = {"calico-kernel", "calico-kernel-reboot", "calico-kernel-verify"}
        for task in self.tasks:
            if task["type"] == "skipped":
                continue
            always = "condition" not in task and task.get("reexecute_on") == ["deploy_changes"]
            self.assertEqual(always, task["id"] not in kernel, task["id"])
            if task["id"] in kernel:
                self.assertNotIn("reexecute_on", task)

    def test_the_reboot_is_fuels_own_and_patient(self):
        task = self.by_id["calico-kernel-reboot"]
        self.assertEqual((task["type"], task["parameters"]), ("reboot", {"timeout": 1800}))


class Conditions(unittest.TestCase):
    """yaql itself, with Fuel's functions about what was there at the last good deployment."""

    tasks = {task["id"]: task for task in of_stage("v4", "deployment_tasks.yaml")}

    def runs(self, name, old, new):
        return fuel_yaql.evaluate(self.tasks[name]["condition"]["yaql_exp"], old, new)

    def node(self, uid="4", others=("1", "4"), role="compute", **settings):
        section = {"ebpf_mode": True, "kernel_choice": "plugin", "as_number": "64512", **settings}
        nodes = {"node-%s" % other: {"uid": other, "node_roles": [role]} for other in others}
        return {"uid": uid, SECTION: section, "network_metadata": {"nodes": nodes}}

    def decided(self, old, new):
        return [self.runs("calico-kernel" + part, old, new) for part in ("", "-reboot", "-verify")]

    def test_a_new_node_gets_the_kernel_and_reboots(self):
        self.assertEqual(self.decided({}, self.node()), [True, True, True])
        known = self.node(uid="1", others=("1",))
        self.assertEqual(self.decided(known, self.node(others=("1", "4"))), [True, True, True])

    def test_a_deployed_node_is_left_alone_when_something_else_changes(self):
        others = [self.node(as_number="64513"), self.node(others=("1", "4", "5")), self.node(role="cinder")]
        for new in [self.node()] + others:
            self.assertEqual(self.decided(self.node(), new), [False, False, False])

    def test_without_ebpf_or_with_its_own_kernel_a_node_does_not_reboot(self):
        self.assertEqual(self.decided({}, self.node(ebpf_mode=False)), [True, False, True])
        self.assertEqual(self.decided({}, self.node(kernel_choice="keep")), [True, False, True])

    def test_a_changed_choice_is_carried_out(self):
        self.assertEqual(self.decided(self.node(ebpf_mode=False), self.node()), [True, True, True])
        self.assertEqual(self.decided(self.node(), self.node(ebpf_mode=False)), [True, False, True])
        self.assertEqual(self.decided(self.node(kernel_choice="keep"), self.node()), [True, True, True])

    def test_a_node_without_the_section_does_nothing(self):
        bare = {"uid": "4", "network_metadata": {"nodes": {"node-4": {"uid": "4"}}}}
        self.assertEqual(self.decided(bare, bare), [False, False, False])


class OnFuel8(unittest.TestCase):
    """The same graph with conditions as text: Fuel 8.0 cannot read another kind."""

    def test_only_conditions_differ(self):
        new = of_stage("v4", "deployment_tasks.yaml")
        old = of_stage("v4", "deployment_tasks_8.0.yaml")
        for task in new + old:
            task.pop("condition", None)
        self.assertEqual(new, old)

    def test_conditions_are_text_and_hold_back_what_they_should(self):
        found = {task["id"]: task["condition"] for task in of_stage("v4", "deployment_tasks_8.0.yaml") if "condition" in task}
        self.assertEqual(set(found), {"calico-kernel-reboot"})

        def reboots(ebpf, kernel):
            values = {"ebpf_mode": ebpf, "kernel_choice": kernel}
            look_up = {"settings:%s.%s.value" % (SECTION, key): value for key, value in values.items()}
            return conditions.evaluate(found["calico-kernel-reboot"], look_up.__getitem__)

        self.assertTrue(reboots(True, "plugin"))
        self.assertFalse(reboots(True, "keep"))
        self.assertFalse(reboots(False, "plugin"))

    def test_the_script_that_puts_it_in_place_names_the_folder_of_this_version(self):
        metadata = of_stage("v4", "metadata.yaml")
        folder = "%s-%s" % (metadata["name"], metadata["version"].rpartition(".")[0])
        script = (stage("v4") / "post_install.sh").read_text(encoding="utf-8")
        self.assertIn("plugin=/var/www/nailgun/plugins/%s\n" % folder, script)


class Stages(unittest.TestCase):
    """Fuel 6.1 and 7.0."""

    tasks = of_stage("v2", "tasks.yaml")

    def test_stages_are_numbered_in_the_order_of_the_file(self):
        at = [re.fullmatch(r"(pre|post)_deployment/([0-9]+)", task["stage"]).groups() for task in self.tasks]
        places = [(when == "post", int(number)) for when, number in at]
        self.assertEqual(places, sorted(set(places)))

    def test_hiera_comes_first_and_controllers_are_named_twice(self):
        first = self.tasks[0]["parameters"]["puppet_manifest"]
        self.assertEqual(first, "/etc/puppet/modules/osnailyfacter/modular/hiera/hiera.pp")
        for task in self.tasks:
            if "controller" in task["role"]:
                self.assertIn("primary-controller", task["role"])
            self.assertNotIn("condition", task)

    def test_tasks_come_in_the_same_order_as_in_the_graph(self):
        names = [task_name(task) for task in self.tasks]
        self.assertEqual([name for name in names if name in ORDER], ORDER)
        last = [names.index(name) for name in ("calico-etcd", "calico-bird", "calico-dhcp-agent", "calico-dataplane")]
        self.assertEqual(last, sorted(last))

    def test_the_kernel_is_decided_about_before_the_deployment(self):
        for task in self.tasks:
            if task_name(task).startswith("calico-kernel"):
                self.assertTrue(task["stage"].startswith("pre_deployment/"))
                self.assertEqual(task["role"], ["compute"])


def task_name(task):
    if task["type"] == "reboot":
        return "calico-kernel-reboot"
    return task["parameters"]["puppet_manifest"].rpartition("/")[2].removesuffix(".pp")


class Manifests(unittest.TestCase):
    def test_both_packages_run_the_same_manifests_on_the_same_nodes(self):
        old = {task_name(task): set(task["role"]) for task in of_stage("v2", "tasks.yaml")}
        old.pop("hiera")
        new = {task["id"]: set(task["groups"]) for task in of_stage("v4", "deployment_tasks.yaml") if task["type"] != "skipped"}
        self.assertEqual(old, new)

    def test_every_task_has_its_manifest_and_every_manifest_its_task(self):
        named = manifests_of(of_stage("v4", "deployment_tasks.yaml"))
        self.assertEqual(named, manifests_of(of_stage("v2", "tasks.yaml")))
        folder = stage("v4") / "deployment_scripts"
        there = {str(path.relative_to(folder)) for path in (folder / "puppet" / "manifests").glob("*.pp")}
        self.assertEqual(there, named)

    def test_every_task_has_a_time_limit(self):
        for task in of_stage("v2", "tasks.yaml") + of_stage("v4", "deployment_tasks.yaml"):
            if task["type"] != "skipped":
                self.assertGreater(task["parameters"]["timeout"], 0)


if __name__ == "__main__":
    unittest.main()
