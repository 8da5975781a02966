#!/bin/sh
# Copies on disks that break: power cuts, bad blocks, a target that refuses, a disk that is pulled out. After each fault the five things that
# must hold: what is in copies/ is whole, what was told of is there, nothing that was there is lost, nothing else was touched, and what follows needs
# no help.
#
# The guest's power is cut twice: `cuts` says how often it was. What a cut of QEMU proves: all that the kernel had given to the disk is there, in its
# order, and what lay in its caches is lost. That the disk itself forgets what it took without a flush is what device-mapper is for: from one
# moment on it drops every write.
. /vm/lib.sh

word() { sed -n "s/.*\b$1=\([a-z0-9]*\).*/\1/p" /proc/cmdline; }
cuts=$(word cuts)
export DM_DISABLE_UDEV=1
data=/mnt/source/data

last_words() {
    tail -n 60 /var/log/agent.log
    mainstay copies
    mainstay checks
    mainstay events | tail -n 60
} 2>/dev/null

# ---- disks

# switch NAME TABLE: without letting a file system write anything first.
switch() {
    dmsetup suspend --nolockfs --noflush "$1" && echo "$2" | dmsetup load "$1" && dmsetup resume "$1"
}
target_sectors=$(cat /sys/block/vdb/size) source_sectors=$(cat /sys/block/vda/size)
target_well() { switch target "0 $target_sectors linear /dev/vdb 0"; }
target_forgets() { switch target "0 $target_sectors flakey /dev/vdb 0 0 86400 1 drop_writes"; }
target_refuses() { switch target "0 $target_sectors flakey /dev/vdb 0 0 86400 1 error_writes"; }
source_well() { switch source "0 $source_sectors linear /dev/vda 0"; }
# The block of 4 KiB in which the second part of one file lies.
source_breaks() {
    breaks_at=$(($(word broken_block) * 8))
    switch source "0 $breaks_at linear /dev/vda 0
$breaks_at 8 error
$((breaks_at + 8)) $((source_sectors - breaks_at - 8)) linear /dev/vda $((breaks_at + 8))"
}

# ---- copies

# Without an agent, whose answer it would be otherwise.
apart() { mainstay copies "$@" --config $config; }
# copies_of SET: their directories, the oldest first. directory_of SET
directory_of() { case $1 in pull) echo /mnt/pulled/copies/pull ;; read) echo /mnt/well/copies/read ;; *) echo "/mnt/target/copies/$1" ;; esac; }
copies_of() { ls "$(directory_of "$1")/copies" 2>/dev/null; }
count_of() { copies_of "$1" | wc -l; }
more_copies_than() { [ "$(count_of "$1")" -gt "$2" ] || { mainstay copies; return 1; }; }
newest_of() { echo "$(directory_of "$1")/copies/$(copies_of "$1" | tail -n 1)/data"; }

# What the agent says of a set: says SET WORD...
says() {
    says_set=$1
    shift
    mainstay copies list "$says_set" >/tmp/says 2>&1
    for says_word; do grep -q "$says_word" /tmp/says || { cat /tmp/says; return 1; }; done
}

# Every name below a directory with what it is, and the content of files; by tools that have nothing to do with mainstay.
tree_of() {
    (cd "$1" && find . -type d -exec stat -c '%n %f %u:%g %y' {} + && find . ! -type d -exec stat -c '%n %f %u:%g %s %y' {} + && find . -type f -exec md5sum {} +) | sort
}
same_tree() {
    tree_of "$1" >/tmp/tree-one && tree_of "$2" >/tmp/tree-other || return 1
    diff /tmp/tree-one /tmp/tree-other
}

# No copy without COMMIT, every file as it was written, all of the earlier ones there: is_sound SET FILE-WITH-EARLIER-COPIES
is_sound() {
    for sound_copy in $(copies_of "$1"); do
        [ -s "$(directory_of "$1")/copies/$sound_copy/COMMIT" ] || { echo "copy $sound_copy has no COMMIT"; return 1; }
    done
    for sound_copy in $(cat "$2"); do
        copies_of "$1" | grep -qx "$sound_copy" || { echo "copy $sound_copy is lost: $(copies_of "$1")"; return 1; }
    done
    [ "$(count_of "$1")" = 0 ] || apart verify "$1" all
}

change_source() {
    for change_file in "$data"/d3/file-*; do echo "$1" >>"$change_file"; done
    seq "$1" $(($1 + 60000)) >"$data/d0/large"
    rm -rf "$data/d4/new"
    mkdir "$data/d4/new" && echo "$1" >"$data/d4/new/$1"
}

# ---- power cuts by device-mapper

# Until the run that is under way has made this, below the directory of the set; or has ended.
has_made() {
    has_pattern=/mnt/target/copies/cut/$1
    set -- $has_pattern
    until [ -e "$1" ] || [ -e /tmp/ended ]; do set -- $has_pattern; done
}
# cut_when COMMAND...: a run whose disk forgets all that it is given from when the command has ended.
cut_when() {
    copies_of cut >/tmp/before
    cut_count=$(count_of cut)
    change_source "$RANDOM"
    tree_of "$data" >/tmp/source-before
    rm -f /tmp/told /tmp/ended
    (apart run cut >/tmp/run 2>&1 && : >/tmp/told; : >/tmp/ended) &
    "$@"
    # Only what was told before the cut counts.
    cut_told=0
    [ ! -e /tmp/told ] || cut_told=1
    target_forgets || return 1
    killall -9 mainstay 2>/dev/null
    wait
    within 20 umount /mnt/target || return 1
    target_well && mount -t ext4 /dev/mapper/target /mnt/target || return 1
    is_sound cut /tmp/before || return 1
    [ "$(count_of cut)" -ge $((cut_count + cut_told)) ] || { echo "a copy that was told of is lost"; return 1; }
    say "cut after $*: $(($(count_of cut) - cut_count)) more, $cut_told told"
    tree_of "$data" | diff /tmp/source-before - || return 1
    apart run cut && same_tree "$data" "$(newest_of cut)/mnt/source/data"
}
# At its steps, and at moments from the beginning to the end of a run and a bit beyond.
cut_at_any_moment() {
    moment_began=$(cut -d' ' -f1 /proc/uptime)
    change_source 1
    apart run cut || return 1
    moments=$(echo "$moment_began $(cut -d' ' -f1 /proc/uptime)" | awk '{ for (i = 1; i <= 4; i++) printf "%.2f ", ($2 - $1) * i / 4 }')
    for step in 'work/*' 'work/*/MANIFEST' 'work/*/COMMIT'; do
        cut_when has_made "$step" || { echo "cut when there was $step"; return 1; }
    done
    for moment in $moments; do cut_when sleep "$moment" || { echo "cut after $moment s of $moments"; return 1; }; done
    : >/tmp/none
    apart prune cut && is_sound cut /tmp/none
}

# ---- power cuts by the machine

# The agent copies to two disks while the power goes: after so many seconds of a run of SET. Nothing is synced but what is noted.
machine_is_cut() {
    for cut_set in write pull; do copies_of $cut_set >"/tmp/told-$cut_set"; done
    cat /tmp/told-write | dd of=/mnt/well/told-write conv=fsync 2>/dev/null
    cat /tmp/told-pull | dd of=/mnt/well/told-pull conv=fsync 2>/dev/null
    seq "$cuts" 300000 >/srv/tree/large
    within 60 runs "$1" || return 1
    sleep "$2"
    echo CUT >$report
    echo "HOST quit" >$report
    sleep 60
    echo "the machine runs although its power was cut"
    return 1
}
runs() { grep -q . "$(directory_of "$1")/work"/*/data/srv/tree/large; }
machine_lost_nothing() {
    is_sound write /mnt/well/told-write && is_sound pull /mnt/well/told-pull
}
has_change() { cmp /srv/tree/changed "$(newest_of "$1")/srv/tree/changed"; }
# goes_on SET SECONDS: what has changed is in a copy, without anybody's help.
goes_on() {
    cut -d' ' -f1 /proc/uptime >/srv/tree/changed
    within "$2" has_change "$1" && same_tree /srv/tree "$(newest_of "$1")/srv/tree" || { mainstay copies; mainstay checks | head -n 6; return 1; }
}

# ---- faults under an agent

prompt() {
    prompt_began=$(cut -d' ' -f1 /proc/uptime)
    mainstay copies >/dev/null || [ $? = 3 ] || return 1
    # A command is two processes and some emulation: the bound is for stalls, not for speed.
    echo "$prompt_began $(cut -d' ' -f1 /proc/uptime)" | awk '{ if ($2 - $1 > 2) { print "an answer took " $2 - $1 " s"; exit 1 } }'
}
bystander_is_left() { [ "$(field bystander pid)" = "$bystander" ]; }
audit() { prompt && bystander_is_left; }

bad_block() {
    mainstay copies run read || return 1
    source_breaks || return 1
    # It looks changed, so that it is read; what the kernel has of it is forgotten.
    touch "$data/d0/unreadable"
    echo new >"$data/d1/new"
    sync
    echo 3 >/proc/sys/vm/drop_caches
    ! cat "$data/d0/unreadable" >/dev/null 2>&1 || { echo "the file can be read"; return 1; }
    mainstay copies run read
}
older_content_is_kept() {
    [ "$(cat "$(newest_of read)/mnt/source/data/d1/new")" = new ] || return 1
    seq 8000 | cmp - "$(newest_of read)/mnt/source/data/d0/unreadable" || return 1
    says read "partial: 1 entries are older"
}
bad_block_is_told() {
    mainstay events | grep -q "unreadable cannot be read" || { mainstay events | tail; return 1; }
    says read "^read: degraded" || return 1
}
block_is_mended() {
    source_well && mainstay copies run read && same_tree "$data" "$(newest_of read)/mnt/source/data" && says read "^read: ok"
}

target_fails() {
    copies_of write >/tmp/before-write
    target_refuses || return 1
    echo refused >/srv/tree/changed
    within 60 says write "^write: failing"
}
target_failure_is_told() { mainstay events | grep -q "copies write: no copy was made" || mainstay copies list write | grep -qi "paused"; }
# At once, as somebody does who has typed all of it in one line: that nothing was mounted in between is seen by nobody.
target_heals() {
    umount /mnt/target && target_well && mount -t ext4 /dev/mapper/target /mnt/target && is_sound write /tmp/before-write
}

disk_is_pulled() {
    copies_of pull >/tmp/before-pull
    seq 7 400000 >/srv/tree/large
    within 90 runs pull || return 1
    echo "HOST device_del pulled" >$report
    within 30 test ! -e /sys/block/sda || return 1
    within 60 says pull "^pull: failing\|failed"
}
nothing_lands_on_the_root_disk() {
    umount -l /mnt/pulled || return 1
    # Some runs, for nothing.
    mainstay copies run pull && { echo "a copy to nowhere"; return 1; }
    [ -z "$(ls -A /mnt/pulled)" ] || { ls -lA /mnt/pulled; return 1; }
    says pull "nothing is mounted"
}
scsi_disk() { ls /sys/block | grep '^sd'; }
disk_is_back() {
    echo "HOST device_add scsi-hd,bus=scsi.0,drive=pulled-disk,id=pulled" >$report
    within 30 scsi_disk || return 1
    mount -t "$(word pulled)" "/dev/$(scsi_disk)" /mnt/pulled && is_sound pull /tmp/before-pull
}

# ---- from a failing disk to the service that answers again

shop_sells() { [ "$(nc 127.0.0.1 7000 </dev/null)" = "$1" ] || { nc 127.0.0.1 7000 </dev/null; mainstay why shop; return 1; }; }
shop_is_open() {
    mkdir -p /mnt/live/data && echo "as of yesterday" >/mnt/live/data/stock
    cp /guest/failover.ron $config && mainstay reload || return 1
    within 60 state_is shop ready && mainstay copies init live && mainstay copies run live && mainstay copies verify live || return 1
    # What is sold today is in no copy.
    echo "as of today" >/mnt/live/data/stock
    sync
    shop_sells "as of today"
}
live_disk_dies() {
    switch live "0 $(cat /sys/block/vdd/size) error" || return 1
    # Somebody writes, as somebody always does: the file system is shut by it.
    dd if=/dev/zero of=/mnt/live/written bs=4096 count=1 conv=fsync 2>/dev/null
    within 240 shop_sells "as of yesterday"
}
shop_tells_why() {
    [ "$(field shop pid)" != "$shop_pid" ] && [ ! -e "/proc/$shop_pid" ] || { echo "process $shop_pid runs"; return 1; }
    mainstay why shop >/tmp/why || [ $? = 3 ]
    grep -q "copy 1\|copies live" /tmp/why || { cat /tmp/why; return 1; }
}
shop_stays_open_without_its_agent() {
    stays_old=$(agent_pid)
    echo "as of later" >/mnt/live/data/stock || return 1
    kill -9 "$stays_old"
    within 60 another_that_answers "$stays_old" || return 1
    within 60 shop_sells "as of later"
}
another_that_answers() { [ -n "$(agent_pid)" ] && [ "$(agent_pid)" != "$1" ] && { mainstay copies >/dev/null || [ $? = 3 ]; }; }

agent_is_well() { rm -f /run/no-agent; within 60 state_is bystander ready; }

mkdir -p /srv/tree/below
for number in 1 2 3 4 5 6 7 8 9; do seq "$number" 900 >"/srv/tree/below/$number"; done

if [ "$cuts" = 0 ]; then
    say "kernel $(uname -r), the disk that is pulled has $(word pulled)"
    mkdir /mnt/target/copies /mnt/well/copies /mnt/pulled/copies
    must "targets are marked" apart init cut
    apart init read && apart init pull && apart init write
    check "a power cut at any moment of a run loses nothing" cut_at_any_moment
    must "the agent comes up" agent_is_well
    must "it makes first copies" within 60 more_copies_than write 0
    must "on both disks" within 60 more_copies_than pull 0
    must "the power of the machine is cut in the middle of a copy" machine_is_cut pull 1
fi
must "cut $cuts of the machine: no copy is lost, none is half" machine_lost_nothing
must "cut $cuts of the machine: the agent comes up" agent_is_well
check "cut $cuts of the machine: copies go on by themselves" goes_on write 90
if [ "$cuts" = 1 ]; then
    must "the power of the machine is cut again" machine_is_cut write 0.3
fi
check "cut $cuts of the machine: on the other disk, too" goes_on pull 90
bystander=$(field bystander pid)
check "a bad block below the source: a copy is made" bad_block
check "with what the file was before, marked" older_content_is_kept
check "and told of" bad_block_is_told
check "audit" audit
check "the block is well again: so is the set" block_is_mended
check "a target that refuses to write is failing" target_fails
check "and told of" target_failure_is_told
check "audit beside a failing target" audit
check "the disk of a target is pulled out in the middle of a copy" disk_is_pulled
check "audit without the disk" audit
check "nothing lands on the root disk" nothing_lands_on_the_root_disk
check "the target is well again, and all copies" target_heals
check "the disk is back, and all copies" disk_is_back
check "the target that had refused: copies go on by themselves" goes_on write 200
check "the disk that was pulled out: copies go on by themselves" goes_on pull 200
check "audit after all of it" audit
must "a shop sells from a disk that has a copy of yesterday" shop_is_open
shop_pid=$(field shop pid)
must "its disk dies: it sells from yesterday's copy" live_disk_dies
check "and tells why, by another process" shop_tells_why
check "it stays open when the agent dies, with what it has sold meanwhile" shop_stays_open_without_its_agent
check "audit beside the dead disk" audit
finish
