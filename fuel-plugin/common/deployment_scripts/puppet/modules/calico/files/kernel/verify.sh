#!/bin/sh
# After the reboot: the new kernel becomes the default, or the node ends in the state that the policy asks for.

verify_kernel() {
    case "$(recall phase)" in
        armed) verify_tried_kernel ;;
        default)
            [ "$RUNNING" = "$(recall release)" ] || give_up kernel_choice \
                "$(recall release) is the default, but $RUNNING was booted" 'reboot the node, or run calico-kernel remove on it'
            judge_running_kernel 'run calico-kernel remove on the node, or set kernel_choice to keep'
            withdraw_marker
            ;;
        unavailable | returning) conclude "$(recall reason)" ;;
        '')
            [ "$RUNNING" = "$(packaged_release)" ] || stop kernel_choice 'no kernel was installed for this node to verify' \
                'run calico-kernel try, or set kernel_choice to keep'
            keep_kernel
            ;;
        *) stop kernel_choice "the last run ended in the middle ($(recall phase))" 'run calico-kernel try, reboot, and verify again' ;;
    esac
}

verify_tried_kernel() {
    release=$(recall release)
    [ "$(recall armed-in)" != "$(boot_id)" ] || stop kernel_choice "$release waits for a reboot of this node, which did not happen" \
        'reboot the node, and verify again'
    # From here on it has had its one boot. Taken back when it passes.
    record failed-release "$release"
    if [ "$RUNNING" != "$release" ]; then
        end_the_try
        forget_deadline
        give_up kernel_choice "$release did not come up (it panicked, or the node was reset), and GRUB booted $RUNNING again" \
            'see the console of its boot; then calico-kernel remove and deploy again, or set kernel_choice to keep'
    fi
    judge_running_kernel 'run calico-kernel remove on the node and deploy again, or set kernel_choice to keep'
    make_default "$release" || give_up kernel_choice "the boot menu has no entry for the running $release" 'run update-grub and see what it says'
    record phase default
    forget failed-release
    forget reason
    end_the_try
    forget_deadline
    withdraw_marker
    say "$release is verified and the default now"
}

# keep_kernel: for nodes whose kernel the plugin does not choose.
keep_kernel() {
    judge_running_kernel 'boot a kernel that has it (Linux 6.1 or later is known to), or set kernel_choice to plugin'
    withdraw_marker
    record kept "$RUNNING"
    say "the running kernel $RUNNING can have the eBPF dataplane"
}
