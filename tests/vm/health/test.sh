#!/bin/sh
# Every fault that the reference names and that can be made without the hardware: seen, in time, by the check that should see it, and by nobody
# else. After each one an audit.
. /vm/lib.sh

say "kernel $(uname -r)"
last_words() {
    tail -n 60 /var/log/agent.log
    mainstay checks
    mainstay events | tail -n 60
}

# "KIND TARGET STATE" of every check.
states() {
    mainstay checks -o json | tr -d ' \n\t' | sed 's/{"name":/\n&/g' |
        sed -n 's/^.*"kind":"\([a-z_]*\)","target":"\([^"]*\)","state":"\([a-z]*\)".*$/\1 \2 \3/p'
}

check_is() { states >/tmp/states; grep -qx "$1 $2 $3" /tmp/states || { grep "^$1 " /tmp/states; mainstay why "$1 $2" 2>&1 | tail -n 2; return 1; }; }
becomes() { within "$4" check_is "$1" "$2" "$3"; }

# The moment of a fault on the wall clock, to the resolution of a file's time.
mark() { : >/tmp/mark; }
# told_within MS TEXT: the journal has a line with TEXT at most so long after the mark.
told_within() {
    mainstay events -o ndjson | grep -F "$2" | tail -n 1 >/tmp/told
    told_at=$(sed -n 's/.*"at":"[^T]*T\([0-9:.]*\)Z".*/\1/p' /tmp/told)
    told_mark=$(stat -c %y /tmp/mark | cut -d' ' -f2)
    [ -n "$told_at" ] || { echo "nothing is told of $2"; return 1; }
    told_ms=$(echo "$told_mark $told_at" | awk '
        function ms(t, p) { split(t, p, ":"); return ((p[1] * 60 + p[2]) * 60 + p[3]) * 1000 }
        { printf "%d", ms($2) - ms($1) }')
    say "$2: told after $told_ms ms"
    [ "$told_ms" -ge -20 ] && [ "$told_ms" -le "$1" ]
}

helpers() { for helper in /proc/[0-9]*; do tr '\0' ' ' <"$helper/cmdline" 2>/dev/null | grep -q "^mainstay role disk" && echo "${helper#/proc/} $(tr '\0' ' ' <"$helper/cmdline" | sed 's/.*--slot \([0-9]*\).*/\1/')"; done; }
# At most one helper a disk.
one_helper_each() {
    helpers >/tmp/helpers
    [ -z "$(cut -d' ' -f2 /tmp/helpers | sort | uniq -d)" ] || { cat /tmp/helpers; return 1; }
}
descriptors() { ls "/proc/$(agent_pid)/fd" | wc -l; }
prompt() {
    prompt_began=$(cut -d' ' -f1 /proc/uptime)
    mainstay status >/dev/null || [ $? = 3 ] || return 1
    # A command is two processes and some emulation: the bound is for stalls, not for speed.
    echo "$prompt_began $(cut -d' ' -f1 /proc/uptime)" | awk '{ if ($2 - $1 > 2) { print "an answer took " $2 - $1 " s"; exit 1 } }'
}
pids() { for pids_name in on-data on-dm on-nic bystander; do field "$pids_name" pid; done | tr '\n' ' '; }
audit() {
    one_helper_each || return 1
    prompt || return 1
    [ "$(pids)" = "$innocent" ] || { echo "pids were $innocent and are $(pids)"; return 1; }
}
# Also what the agent holds is as it was before the faults.
audit_all() {
    audit || return 1
    audit_now=$(descriptors)
    [ "$audit_now" -le $((descriptors_before + 2)) ] || { echo "$audit_now descriptors, $descriptors_before before"; return 1; }
}


watched() {
    states >/tmp/states
    for watched_check in "smart nvme0n1 ok" "nic_link eth0 ok" "filesystem /mnt/data ok" "filesystem /mnt/dm ok" "disk_hung dm-0 ok" "disk_space /mnt/data ok" "temperature lm75/temp1 ok"; do
        grep -qx "$watched_check" /tmp/states || { echo "not: $watched_check"; cat /tmp/states; return 1; }
    done
}

nvme_warns() {
    echo "HOST qom-set /machine/peripheral/nv0 smart_critical_warning 4" >$report
    becomes smart nvme0n1 failing 30
}
hardware_is_well() {
    echo "HOST qom-set /machine/peripheral/nv0 smart_critical_warning 0" >$report
    echo "HOST set_link e0 on" >$report
    i2cset -f -y "$(stub_bus)" 0x48 0 0x0019 w
}

link_cut() {
    mark
    echo "HOST set_link e0 off" >$report
    becomes nic_link eth0 failing 20 || return 1
    # How long the emulator takes to cut it is not ours: tests/e2e and the role's own tests measure from the kernel's event.
    told_within 3000 nic_link
}
nic_service_is_concerned() { mainstay why on-nic | grep -q eth0; }

ext4_error() {
    mark
    echo vm-test >/sys/fs/ext4/vda/trigger_fs_error
    becomes filesystem /mnt/data failing 20 || return 1
    told_within 500 "/mnt/data"
}

disk_hangs() {
    dmsetup suspend --nolockfs --noflush victim || return 1
    # Somebody waits for it, as somebody always does.
    (dd if=/dev/zero of=/mnt/dm/stuck bs=4096 count=1 conv=fsync >/dev/null 2>&1) &
    becomes disk_hung dm-0 failing 60
}
hung_service_is_left() { state_is on-dm ready && mainstay why on-dm | grep -q dm-0; }
agent_dies_beside_it() {
    dies_old=$(agent_pid)
    kill -9 "$dies_old"
    within 60 another_agent_answers "$dies_old" || return 1
    sleep 3
    one_helper_each && check_is disk_hung dm-0 failing
}
another_agent_answers() { [ -n "$(agent_pid)" ] && [ "$(agent_pid)" != "$1" ] && mainstay checks -o json >/dev/null 2>&1 || [ $? = 3 ]; }
disk_wakes() {
    dmsetup resume victim || return 1
    becomes disk_hung dm-0 ok 200
}

disk_fails() {
    dmsetup suspend --nolockfs --noflush victim
    echo "0 $(cat /sys/block/vdb/size) error" | dmsetup load victim && dmsetup resume victim || return 1
    becomes filesystem /mnt/dm failing 90
}

medium_error() {
    echo 2 >/sys/bus/pseudo/drivers/scsi_debug/opts
    dd if="/dev/$scsi_disk" of=/dev/null bs=512 skip=4660 count=4 iflag=direct >/dev/null 2>&1
    echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts
    becomes disk_errors "$scsi_disk" degraded 30
}
commands_are_lost() {
    echo 5 >"/sys/block/$scsi_disk/device/timeout"
    echo 1 >/sys/bus/pseudo/drivers/scsi_debug/every_nth
    echo 4 >/sys/bus/pseudo/drivers/scsi_debug/opts
    (dd if="/dev/$scsi_disk" of=/dev/null bs=512 count=1 iflag=direct >/dev/null 2>&1) &
    becomes disk_hung "$scsi_disk" failing 40
    lost_result=$?
    echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts
    echo 0 >/sys/bus/pseudo/drivers/scsi_debug/every_nth
    return $lost_result
}

raid_loses_a_disk() {
    for raid_index in 0 1; do
        truncate -s 16M "/tmp/raid$raid_index"
        losetup "/dev/loop$raid_index" "/tmp/raid$raid_index"
    done
    mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean /dev/loop0 /dev/loop1 >/dev/null 2>&1 || return 1
    becomes raid md0 ok 40 || return 1
    mark
    mdadm --fail /dev/md0 /dev/loop1 >/dev/null 2>&1
    becomes raid md0 degraded 20 || return 1
    told_within 1000 "md0"
}

# The only SCSI disk here.
scsi_disk=sda

stub_bus() { grep -l 'SMBus stub' /sys/class/i2c-dev/i2c-*/name | sed 's|.*/i2c-\([0-9]*\)/name|\1|'; }
too_hot() {
    # lm75 register 0 is the temperature, big-endian with nine bits: 91 degrees.
    i2cset -f -y "$(stub_bus)" 0x48 0 0x005b w || return 1
    becomes temperature lm75/temp1 degraded 40
}

machine_check() {
    cd /sys/kernel/debug/mce-inject || return 1
    echo sw >flags
    # Valid, uncorrected, with an address: a memory controller's read error.
    echo 0xbe00000000000090 >status
    echo 0x12345000 >addr
    echo 0 >cpu
    echo 4 >bank
    cd /
    becomes machine_check '' failing 20
}

mount_is_dead() {
    exec 3<>/dev/fuse
    mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 dead /mnt/dead || return 1
    becomes disk_space /mnt/dead failing 60
}
mount_is_gone() {
    exec 3>&-
    umount -l /mnt/dead
    within 60 one_helper_each
}

alerts_came() {
    for alert_word in nic_link filesystem disk_hung; do
        grep -q "$alert_word" /tmp/alerts || { echo "no alert of $alert_word"; cat /tmp/alerts; return 1; }
    done
}

stops_everything() {
    touch /run/no-agent
    stops_pid=$(agent_pid)
    kill -TERM "$stops_pid"
    within 40 test ! -e "/proc/$stops_pid/status" || return 1
    [ -z "$(helpers)" ] || { helpers; return 1; }
    # Magic close: the guest goes on after the watchdog's time.
    sleep 12
}
starts_again() {
    rm /run/no-agent
    within 60 state_is bystander ready
}

must "the agent comes up and all is well" within 60 all_well
must "disks, NIC and sensors are watched" within 60 watched
innocent=$(pids)
descriptors_before=$(descriptors)
check "NVMe: a critical warning is failing" nvme_warns
check "NIC: a cut link is failing" link_cut
check "the service that needs the NIC knows why" nic_service_is_concerned
check "i2c: a temperature above the chip's limit" too_hot
check "md: a failed disk degrades the array" raid_loses_a_disk
# All of them at once: each bad state lasts a minute at least.
hardware_is_well
check "NVMe: ok again without the warning" becomes smart nvme0n1 ok 150
check "NIC: ok again with its link" becomes nic_link eth0 ok 150
check "i2c: ok again below the limit" becomes temperature lm75/temp1 ok 150
check "SCSI: a medium error" medium_error
check "SCSI: lost commands are a hung disk" commands_are_lost
check "audit" audit
check "device-mapper: a hung disk is failing" disk_hangs
check "its service is left as it is, and why tells" hung_service_is_left
check "audit while it hangs" audit
check "the agent dies beside it: no second helper" agent_dies_beside_it
check "the disk answers again" disk_wakes
check "a mount that never answers" mount_is_dead
check "audit while it does not answer" audit
check "and it is gone" mount_is_gone
check "device-mapper: a disk with nothing but errors" disk_fails
check "ext4: an error of the file system is failing" ext4_error
check "a machine check" machine_check
check "audit after all of it" audit_all
check "alerts were run" alerts_came
check "TERM stops everything, the watchdog too" stops_everything
check "and all starts again" starts_again
# The last of all: an agent that stands still is no agent.
last_words
echo "EXPECT-END the hardware watchdog ends a machine whose agent stands still" >$report
kill -STOP "$(agent_pid)"
sleep 60
fail "watchdog" "the machine runs although its agent stands still"
finish
