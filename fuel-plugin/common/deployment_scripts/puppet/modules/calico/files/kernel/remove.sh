#!/bin/sh
# Back to a node that never had the package.

remove_kernel() {
    if [ ! -d "$STATE" ] && [ -z "$(packaged_release)" ]; then
        withdraw_marker
        return
    fi
    release=$(packaged_release)
    if [ -n "$release" ] && [ "$RUNNING" = "$release" ]; then
        before=$(recall before)
        { [ -n "$before" ] && [ -s "$ROOT/boot/vmlinuz-$before" ]; } || stop kernel_choice \
            "$RUNNING runs and the kernel before it${before:+, $before,} is not installed" 'install another kernel, reboot into it, and remove again'
        check_guests
        make_default "$before" || stop kernel_choice "the boot menu has no entry for $before" 'run update-grub and see what it says'
        record phase leaving
        end_the_try
        forget_deadline
        withdraw_marker
        say "$before is the default again; reboot, and run calico-kernel remove again to remove $release"
        return
    fi
    if [ -z "$release" ] && [ ! -e "$STATE/before-entry" ]; then
        # Only notes, of a kernel that was kept or of a check that failed: nothing to take back.
        rm -rf "${STATE:?}"
        withdraw_marker
        return
    fi
    take_back
    withdraw_marker
    say 'the kernel package and all that belongs to it is removed'
}

# take_back: undoes secure_old_kernel, hold_old_kernel, install_package and set_deadline, as far as they came.
take_back() {
    forget_deadline
    rm -f "$GRUB_TRY_ENTRY"
    if [ -n "$(dpkg-query -W -f '${Status}' "$PACKAGE" 2>/dev/null | grep -v ' not-installed' || true)" ]; then
        if ! words=$(DEBIAN_FRONTEND=noninteractive apt-get purge -y -q "$PACKAGE" 2>&1); then
            # A package of which the installation broke off is not purged by apt without being installed before.
            words=$(dpkg --purge --force-remove-reinstreq "$PACKAGE" 2>&1) || {
                echo "$words" >&2
                stop kernel_choice "$PACKAGE cannot be removed (the words of dpkg are above)" 'repair what it names, and remove again'
            }
        fi
    fi
    # The menu follows the package: without its kernel the old one is the newest, too.
    restore_boot_menu
    if [ -n "$(recall held)" ]; then
        apt-mark unhold "$(recall held)" >/dev/null
    fi
    rm -rf "${STATE:?}"
}
