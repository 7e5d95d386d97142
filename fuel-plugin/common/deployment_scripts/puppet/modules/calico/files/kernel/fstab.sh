#!/bin/sh
# Mount options that Linux 6.1 no longer takes: the file system would not be mounted, and / or /boot be missing.

# Not the kernel's: of the VFS, mount(8), systemd and Ubuntu's mountall.
ANY_TYPE=' defaults ro rw suid nosuid dev nodev exec noexec sync async dirsync atime noatime nodiratime diratime relatime
norelatime strictatime nostrictatime lazytime nolazytime iversion noiversion mand nomand silent loud auto noauto user
nouser users group owner _netdev nofail bind rbind remount bootwait nobootwait optional showthrough loop '
# Documentation/admin-guide/xfs.rst of 6.1. `delaylog`, `barrier`, `nobarrier`, `ihashsize`, `osyncisdsync` and others
# that 3.13 took are gone; they fail the mount.
XFS=' allocsize attr2 noattr2 discard nodiscard dax grpid bsdgroups nogrpid sysvgroups filestreams ikeep noikeep
inode32 inode64 largeio nolargeio logbufs logbsize logdev noalign norecovery nouuid noquota quota uquota usrquota
uqnoenforce qnoenforce gquota grpquota gqnoenforce pquota prjquota pqnoenforce rtdev sunit swidth swalloc wsync '
# What ext2, ext3 and the first ext4 took, and ext4 of 6.1 does not know any more.
EXT_GONE=' xip extents noextents mballoc nomballoc '

# refused_options TYPE OPTIONS: prints the options that 6.1 refuses.
refused_options() {
    for option in $(echo "$2" | tr ',' ' '); do
        name=${option%%=*}
        case "$name" in
            x-* | X-* | comment | context | fscontext | defcontext | rootcontext | timeout | uid | gid | mode) continue ;;
        esac
        case "$(echo "$ANY_TYPE" | tr '\n' ' ')" in *" $name "*) continue ;; esac
        case "$1" in
            xfs) case "$(echo "$XFS" | tr '\n' ' ')" in *" $name "*) ;; *) printf '%s ' "$option" ;; esac ;;
            ext2 | ext3 | ext4) case "$EXT_GONE" in *" $name "*) printf '%s ' "$option" ;; esac ;;
        esac
    done
}

# check_fstab: gives up on the first line that Linux 6.1 would not mount.
check_fstab() {
    [ -e "$ROOT/etc/fstab" ] || return 0
    while read -r device folder type options rest; do
        case "$device" in '' | '#'*) continue ;; esac
        : "$rest"
        refused=$(refused_options "$type" "${options:-defaults}")
        [ -z "$refused" ] || give_up kernel_choice \
            "/etc/fstab mounts $folder ($type) with ${refused% }, which Linux 6.1 refuses" \
            "take that out of /etc/fstab, or set kernel_choice to keep"
    done <"$ROOT/etc/fstab"
    type=$(awk '$2 == "/" { type = $3 } END { print type }' "$ROOT/proc/mounts")
    read -r command_line <"$ROOT/proc/cmdline" || true
    for word in $command_line; do
        case "$word" in rootflags=*) ;; *) continue ;; esac
        refused=$(refused_options "$type" "${word#rootflags=}")
        [ -z "$refused" ] || give_up kernel_choice \
            "the kernel's command line mounts / ($type) with ${refused% }, which Linux 6.1 refuses" \
            "take that out of GRUB_CMDLINE_LINUX, or set kernel_choice to keep"
    done
}
