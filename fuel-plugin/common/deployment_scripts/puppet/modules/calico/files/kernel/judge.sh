#!/bin/sh
# What a kernel has to show before the eBPF dataplane is set up on it.

# judge_running_kernel CURE: gives up on the first thing that is missing.
judge_running_kernel() {
    [ -s "$ROOT/sys/kernel/btf/vmlinux" ] || give_up kernel_choice \
        "the running kernel $RUNNING has no /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)" "$1"
    await_interfaces
    check_with_agent "$1"
}

# check_with_agent CURE: the agent may not be installed yet, since that would start it; its package has it.
check_with_agent() {
    folder=''
    checker=$(command -v "$AGENT") || {
        folder=$(mktemp -d)
        # The download's name has a version in it; the folder is ours alone.
        if (cd "$folder" && apt-get download -q "$AGENT" >/dev/null 2>&1 && dpkg-deb -x ./*.deb .); then
            checker=$(find "$folder" -type f -name "$AGENT" -perm /100 | head -n 1)
        fi
        [ -n "$checker" ] || {
            rm -rf "$folder"
            give_up ebpf_mode "there is no $AGENT here to check the kernel with, and apt-get cannot download its package" \
                "see what apt-get download $AGENT says; the plugin's repository has it"
        }
    }
    if verdict=$("$checker" check 2>&1); then passed=yes; else passed=no; fi
    [ -z "$folder" ] || rm -rf "$folder"
    [ $passed = no ] || return 0
    # Indented lines repeat what is missing.
    missing=$(echo "$verdict" | sed -n 's/^  *//p' | tr '\n' ';' | sed 's/;$//; s/;/; /g')
    give_up kernel_choice "'calico-ebpf check' says no on $RUNNING: ${missing:-$(echo "$verdict" | tail -n 1)}" "$1"
}

# Links take their time after a boot: negotiation, bonds, slow drivers.
await_interfaces() {
    waited=0
    while
        lost=$(lost_interface)
        [ -n "$lost" ]
    do
        [ "$waited" -lt "$PATIENCE" ] || give_up kernel_choice "on $RUNNING, $lost" \
            'see dmesg for its driver and firmware, or set kernel_choice to keep'
        sleep 1
        waited=$((waited + 1))
    done
}
