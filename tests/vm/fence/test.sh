#!/bin/sh
# Limits and fences with every controller of cgroup v2. After each fault: the neighbour must not have noticed, and the agent answers.
. /vm/lib.sh
. /vm/neighbour.sh
mkdir -p /tmp/allowed

say "kernel $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
last_words() {
    tail -n 80 /var/log/agent.log
    mainstay fences
    mainstay events | tail -n 80
    mainstay doctor
}

main_of() { field "$1" pid; }
# The file of the group of a service's main process: group_file SERVICE FILE.
group_file() { echo "$(group_of "$(main_of "$1")")/$2"; }
holds() { holds_now=$(cat "$(group_file "$1" "$2")" 2>&1); [ "$holds_now" = "$3" ] || { echo "$1 $2: $holds_now"; return 1; }; }
word_is() { [ "$(field "$1" state)" = "\"$2\"" ] || { mainstay status "$1"; return 1; }; }
number_in() { sed -n "s/^$2 //p" "$1"; }

# The record of the latest fence of a service. Exit code 3 says that some fence stands.
fences() { mainstay fences "$@" || [ $? = 3 ]; }
evidence() {
    evidence_id=$(fences "$1" -o json | tr -d ' \n\t' | sed 's/"id":/\n/' | sed -n '2s/^\([0-9]*\).*/\1/p')
    fences "$evidence_id" -o json | tr -d ' \n\t'
}
says() { evidence "$1" | grep -q "$2" || { evidence "$1"; return 1; }; }

# The longest pause of chill since its file was begun, in seconds; emulation on a busy host excuses less than five.
chill_had_no_gap() {
    awk 'NR > 1 && $1 - last > gap { gap = $1 - last; at = last } { last = $1 } END { if (NR < 10 || gap >= 5) { print NR " stamps, a gap of " gap " s at " at; exit 1 } }' /tmp/chill.log || return 1
    [ "$(main_of chill)" = "$chill_pid" ] || { echo "chill is another process"; return 1; }
}
prompt() {
    prompt_began=$(cut -d' ' -f1 /proc/uptime)
    fences >/dev/null || return 1
    echo "$prompt_began $(cut -d' ' -f1 /proc/uptime)" | awk '{ if ($2 - $1 > 2) { print "an answer took " $2 - $1 " s"; exit 1 } }'
}
audit() { chill_had_no_gap && prompt; }

limits_are_in_force() {
    holds bloat memory.max 67108864 && holds bloat memory.oom.group 1 &&
        holds bomb cpu.max "50000 100000" && holds bomb cpu.weight 50 && holds bomb pids.max 40 || return 1
    limits_device=$(cat /sys/block/vda/dev)
    holds scribe io.max "$limits_device rbps=max wbps=1048576 riops=max wiops=max"
}
agent_is_protected() { [ "$(cat "/proc/$(agent_pid)/oom_score_adj")" = -900 ] && [ "$(cat "/proc/$(main_of chill)/oom_score_adj")" = 0 ]; }

wall_holds() {
    within 10 test -e /tmp/allowed/read || return 1
    [ "$(cat /tmp/allowed/file)" = yes ] && [ ! -e /tmp/forbidden ] && grep -qi denied /tmp/allowed/refusal
}

memory_hog() {
    hog_restarts=$(field bloat restarts)
    touch /tmp/eat-bloat
    within 60 restarts_over bloat "$hog_restarts" || return 1
    [ "$(field bloat oom)" = true ] || { mainstay status bloat -o json; return 1; }
    within 20 word_is bloat ready
}

cpu_hog_is_throttled() {
    cpu_loud=$(beside 3 cpu /tmp/spin)
    mainstay fence spinner --level throttle --why "too loud" || return 1
    word_is spinner throttled || return 1
    cpu_throttled=$(limited_beside 9 cpu /tmp/spin)
    say "beside 200 % CPU a neighbour keeps $cpu_loud % of its throughput; $cpu_throttled % once that is throttled"
    touch /tmp/spin
    cpu_stat=$(group_file spinner cpu.stat)
    cpu_before=$(number_in "$cpu_stat" nr_throttled)
    sleep 2
    cpu_after=$(number_in "$cpu_stat" nr_throttled)
    rm /tmp/spin
    says spinner '"level":"throttle"' || return 1
    mainstay unfence spinner || return 1
    [ "$cpu_after" -gt "$cpu_before" ] || { echo "nr_throttled stays $cpu_before"; return 1; }
    holds spinner cpu.max "max 100000" && keeps "$cpu_throttled"
}

memory_hog_costs_little() {
    hog_restarts=$(field hog restarts)
    hog_beside=$(limited_beside 9 memory /tmp/hog)
    hog_times=$(($(field hog restarts) - hog_restarts))
    say "beside a memory hog that meets its limit ($hog_times times) a neighbour keeps $hog_beside % of its throughput"
    [ "$hog_times" -ge 3 ] || { echo "it met its limit $hog_times times only"; return 1; }
    within 20 word_is hog ready && keeps "$hog_beside"
}

disk_hog_is_throttled() {
    disk_loud=$(beside 3 disk /tmp/flood)
    mainstay fence flood --level throttle --why "too much" || return 1
    says flood '"method":"io.max' || return 1
    disk_throttled=$(limited_beside 9 disk /tmp/flood)
    disk_sync=$(beside 3 sync /tmp/flood)
    say "beside writers that saturate the disk a neighbour keeps $disk_loud % of its throughput; $disk_throttled % once they are throttled"
    say "... and $disk_sync % of its fsyncs, which wait for whatever the file system has to write first"
    mainstay unfence flood || return 1
    [ -z "$(cat "$(group_file flood io.max)")" ] || { cat "$(group_file flood io.max)"; return 1; }
    keeps "$disk_throttled"
}

disk_writer_is_limited() {
    rm -f /tmp/scribe
    touch /tmp/write
    sleep 10
    rm /tmp/write
    writer_mib=$(cat /tmp/scribe)
    say "$writer_mib MiB written in 10 s with io_max 1 MiB/s"
    [ "$writer_mib" -ge 3 ] && [ "$writer_mib" -le 16 ]
}

bomb_is_fenced_by_itself() {
    touch /tmp/explode
    within 90 word_is bomb held || { rm /tmp/explode; return 1; }
    rm /tmp/explode
    [ -z "$(instances bomb)" ] || { census; return 1; }
    says bomb '"trigger":"pids"' && says bomb '"proven_after_us":[0-9]' || return 1
    mainstay why bomb | grep -qi pids
}
bomb_comes_back_on_probation() {
    mainstay unfence bomb || return 1
    within 20 word_is bomb ready
}

freeze_and_thaw() {
    mainstay fence runner --level freeze || return 1
    [ "$(number_in "$(group_file runner cgroup.events)" frozen)" = 1 ] || return 1
    freeze_before=$(cat /tmp/runner)
    sleep 1
    [ "$(cat /tmp/runner)" = "$freeze_before" ] || { echo "it runs on"; return 1; }
    word_is runner frozen || return 1
    # The next agent knows of it.
    freeze_old=$(agent_pid)
    kill -9 "$freeze_old"
    within 40 word_is runner frozen || return 1
    mainstay unfence runner || return 1
    sleep 1
    [ "$(cat /tmp/runner)" != "$freeze_before" ] || { echo "it stands still"; return 1; }
}

hold_survives_the_agent() {
    mainstay fence tree --why "by hand" || return 1
    [ -z "$(instances tree)$(instances grandchild)" ] || { census; return 1; }
    hold_old=$(agent_pid)
    kill -9 "$hold_old"
    within 40 word_is tree held || return 1
    ! mainstay start tree || { echo "start brings it back"; return 1; }
    mainstay unfence tree || return 1
    within 20 word_is tree ready
}

member_in_d_state() {
    stuck_run=$(main_of stuck)
    dmsetup suspend --noflush --nolockfs victim
    sleep 2
    # It cannot be proven: the command says so.
    if mainstay fence stuck --level kill; then echo "claimed as fenced"; dmsetup resume victim; return 1; fi
    says stuck '"incomplete"' && says stuck '"state":"D"' || { dmsetup resume victim; return 1; }
    stuck_evidence=$(evidence stuck)
    prompt || { dmsetup resume victim; return 1; }
    # No second copy beside it.
    stuck_count=$(instances stuck | wc -l)
    dmsetup resume victim
    say "in D: $(echo "$stuck_evidence" | sed 's/.*"remaining":\(\[[^]]*\]\).*/\1/')"
    [ "$stuck_count" -le 1 ] || { echo "$stuck_count of it"; return 1; }
    within 40 word_is stuck held || return 1
    says stuck '"proven"' || return 1
    mainstay unfence stuck && within 20 word_is stuck ready && [ "$(main_of stuck)" != "$stuck_run" ]
}

# The check `memory` fails here from 60 % on, and does so until both are gone. What goes first is held up by its disk: as long as its end is not
# proven, nobody follows it.
host_memory_fences_one_by_one() {
    relief_pile=$(main_of pile)
    relief_keeper=$(main_of keeper)
    dmsetup suspend --noflush --nolockfs victim
    touch /tmp/hoard-keeper /tmp/hoard-pile /tmp/hoard-hoard
    if ! within 120 says hoard '"incomplete"'; then dmsetup resume victim; mainstay why memory; return 1; fi
    sleep 25
    relief_held_up=$(evidence hoard)
    relief_meanwhile=$(main_of pile)
    relief_check=$(mainstay why memory)
    dmsetup resume victim
    echo "$relief_held_up" | grep -q '"trigger":"host_memory"' || { echo "$relief_held_up"; return 1; }
    echo "$relief_held_up" | grep -q '"state":"D"' || { echo "$relief_held_up"; return 1; }
    echo "$relief_check" | grep -q failing || { echo "$relief_check"; return 1; }
    [ "$relief_meanwhile" = "$relief_pile" ] || { echo "pile did not wait: $relief_pile, $relief_meanwhile"; return 1; }
    within 40 word_is hoard held && within 90 word_is pile held || { mainstay why memory; return 1; }
    says pile '"trigger":"host_memory"' || return 1
    relief_proven=$(of_kill hoard proven)
    relief_next=$(of_kill pile decided)
    relief_apart=$(echo "$relief_proven $relief_next" | tr 'TZ:' '   ' | awk '{ print ($6 - $2) * 3600 + ($7 - $3) * 60 + $8 - $4 }')
    say "host memory: the first is proven to be gone at $relief_proven, the next one is decided $relief_apart s later"
    awk -v apart="$relief_apart" 'BEGIN { exit !(apart >= 15) }' || { echo "$relief_proven, $relief_next"; return 1; }
    # With these two gone the host is well, and who is next in line keeps what it has.
    sleep 25
    [ "$(main_of keeper)" = "$relief_keeper" ] || { mainstay status keeper; return 1; }
    rm /tmp/hoard-keeper /tmp/hoard-pile /tmp/hoard-hoard
    mainstay unfence hoard && mainstay unfence pile && mainstay restart keeper
}
# The time of one kind of the latest kill of a service: of_kill SERVICE decided|proven
of_kill() { evidence "$1" | sed "s/.*{\"level\":\"kill\",[^}]*\"$2\":\"\([^\"]*\)\".*/\1/"; }

# Who goes first, the kernel or the agent, is a race; what counts is who does not, and that it answers while it lasts.
host_memory_runs_out() {
    memory_restarts=$(field glutton restarts)
    memory_slowest=0
    touch /tmp/eat-glutton
    memory_until=$(($(seconds) + 300))
    until glutton_has_lost; do
        [ "$(seconds)" -lt "$memory_until" ] || { echo "nobody has lost"; return 1; }
        memory_asked=$(uptime_now)
        fences >/dev/null || return 1
        memory_slowest=$(echo "$memory_slowest $memory_asked $(uptime_now)" | awk '{ took = $3 - $2; print (took > $1) ? took : $1 }')
    done
    say "slowest answer while the host has no memory: $memory_slowest s"
    memory_agent=$(agent_pid)
    [ "$memory_agent" = "$agent_before" ] || { echo "the agent was $agent_before and is $memory_agent"; return 1; }
    awk -v slowest="$memory_slowest" 'BEGIN { exit !(slowest <= 5) }' || { echo "an answer took $memory_slowest s"; return 1; }
    prompt
}
glutton_has_lost() {
    dmesg | grep -q "^.*Out of memory: Killed process [0-9]* (tail)" || restarts_over glutton "$memory_restarts" || word_is glutton held
} >/dev/null

chill_pid=
must "the agent comes up and all is well" within 60 all_well
chill_pid=$(main_of chill)
must "limits are in force" limits_are_in_force
check "doctor knows of the controllers" sh -c 'mainstay doctor | grep -i "controller"'
check "the agent is protected, and its services are not" agent_is_protected
check "a walled service writes only where it may" wall_holds
check "a memory hog is killed by its own limit" memory_hog
check "the neighbour did not notice the memory hog" audit
check "a CPU hog is throttled, and set free exactly" cpu_hog_is_throttled
check "a memory hog at its limit costs its neighbour little" memory_hog_costs_little
check "a writer is held to its limit" disk_writer_is_limited
check "writers that saturate a disk are throttled, and set free exactly" disk_hog_is_throttled
check "for the host's memory one goes after the other, each when the last is proven to be gone" host_memory_fences_one_by_one
check "the neighbour did not notice that either" audit
check "a fork bomb is fenced by itself, with evidence" bomb_is_fenced_by_itself
check "the neighbour did not notice the bomb" audit
check "and comes back when it is let" bomb_comes_back_on_probation
check "freeze, a new agent, thaw" freeze_and_thaw
check "a hold by hand survives the agent" hold_survives_the_agent
check "a member in uninterruptible sleep is never claimed as fenced" member_in_d_state
check "the neighbour did not notice any of it" audit
agent_before=$(agent_pid)
check "the host runs out of memory: the glutton pays, the agent stays" host_memory_runs_out
check "the neighbour lives on" sh -c "[ \"\$(. /vm/lib.sh; field chill pid)\" = $chill_pid ]"
finish
