# What every guest's test.sh begins with. POSIX shell: busybox ash in one guest, dash in another.
# It looks at processes and control groups by itself and asks the agent only for what nobody else can know.

report=/dev/ttyS1
config=/etc/mainstay/mainstay.ron
services="counter worker tree limited leaver"

say() { echo "INFO $*" >$report; }
pass() { echo "PASS $*" >$report; }
fail() { echo "FAIL $1: $2" >$report; }

seconds() { cut -d. -f1 /proc/uptime; }

# check NAME COMMAND...: one test; what the command prints is the reason of its failure. False when it failed.
check() {
    check_name=$1
    check_began=$(seconds)
    shift
    if check_output=$("$@" 2>&1); then
        pass "$check_name ($(($(seconds) - check_began)) s)"
    else
        fail "$check_name" "$(echo "${check_output:-$* is false}" | tail -n 8 | tr '\n' ';')"
        return 1
    fi
}

# must: a check without which the others only fail for the same reason.
must() { check "$@" || finish; }

# finish: the host waits for this line; the guest powers off.
finish() {
    last_words
    echo DONE >$report
    sync
    poweroff -f
}

# within SECONDS COMMAND...: until it succeeds. Guest clocks may run slow: limits here are generous and pass at once when all is well.
within() {
    within_left=$(($1 * 5))
    shift
    until "$@" >/dev/null 2>&1; do
        within_left=$((within_left - 1))
        if [ "$within_left" -le 0 ]; then
            echo "not within the time: $*"
            "$@"
            return 1
        fi
        sleep 0.2
    done
}

# "NAME PID" of every process that runs a sample service. The pattern does not match grep's own command line.
scan() {
    grep -aHo '/opt/svc/[a-z]*' /proc/[0-9]*/cmdline 2>/dev/null |
        sed -n 's|^/proc/\([0-9]*\)/cmdline:/opt/svc/\([a-z]\{1,\}\)$|\2 \1|p' | sort -u
}

# The same, less the forked shells that are about to become another program: what two scans find.
census() {
    scan >/tmp/census
    sleep 0.1
    scan | awk 'NR == FNR { first[$0]; next } $0 in first' /tmp/census -
}

# The processes of one service.
instances() { census | sed -n "s/^$1 //p"; }

# once_each NAME...: one process of each.
once_each() {
    census >/tmp/once
    for once_name; do
        [ "$(grep -c "^$once_name " /tmp/once)" = 1 ] || { cat /tmp/once; return 1; }
    done
}

none_left() {
    census >/tmp/left
    [ ! -s /tmp/left ] || { cat /tmp/left; return 1; }
}

# The value of KEY in the first replica of a service: field NAME KEY.
field() {
    mainstay status "$1" -o json | tr -d ' \n\t' | sed "s/.*\"replicas\":\[{//; s/\"$2\":/\n/; s/^[^\n]*\n//; s/[,}].*//"
}

state_is() { [ "$(field "$1" state)" = "\"$2\"" ] || { mainstay status "$1"; return 1; }; }

restarts_over() { [ "$(field "$1" restarts)" -gt "$2" ]; }

all_well() { mainstay status; }

# The control group of a process as a folder.
group_of() { echo "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$1/cgroup")"; }

# The agent as /proc knows it: its roles and the commands of this test have other words.
agent_pid() {
    for agent_comm in $(grep -lx mainstay /proc/[0-9]*/comm 2>/dev/null); do
        case $(tr '\0' ' ' <"${agent_comm%comm}cmdline") in
            "/usr/bin/mainstay run --config "*) ;;
            *) continue ;;
        esac
        agent_comm=${agent_comm#/proc/}
        echo "${agent_comm%/comm}"
        return
    done 2>/dev/null
}

# A new agent is another process that answers.
another_agent() {
    another_pid=$(agent_pid)
    [ -n "$another_pid" ] && [ "$another_pid" != "$1" ] && all_well
}

# Kills the agent TIMES times, each time at another moment of its life, and compares who runs before and after.
kill_agent() {
    census >/tmp/before
    kill_round=0
    while [ "$kill_round" -lt "$1" ]; do
        kill_round=$((kill_round + 1))
        kill_old=$(agent_pid)
        kill -9 "$kill_old" || return 1
        within 40 another_agent "$kill_old" || { echo "no new agent after kill $kill_round"; return 1; }
        census >/tmp/after
        cmp -s /tmp/before /tmp/after || {
            echo "kill $kill_round: before:" $(cat /tmp/before) "after:" $(cat /tmp/after)
            return 1
        }
        sleep "0.$((kill_round * 37 % 10))"
    done
}

# The next agent comes while its predecessor's successor is itself dying: no pause, no waiting for an answer.
kill_agent_at_once() {
    census >/tmp/before
    for kill_round in 1 2 3 4 5 6 7 8 9 10; do
        kill_old=$(agent_pid)
        [ -n "$kill_old" ] && kill -9 "$kill_old"
        sleep "0.$((kill_round % 4))"
    done 2>/dev/null
    within 40 all_well || return 1
    census >/tmp/after
    cmp /tmp/before /tmp/after || { cat /tmp/before /tmp/after; return 1; }
}

# Every line that the counter printed is in the log: 1, 2, 3 ... without a gap, a repeat or half a line.
# The counter starts at 1 again with every process of its own, so this is for a service that was never restarted.
log_is_complete() {
    mainstay logs -n 100000 counter >/tmp/log || return 1
    sed -n 's/.*line \([0-9]*\)$/\1/p' /tmp/log | awk '
        $1 != last + 1 { print "line " last " is followed by " $1; bad = 1 }
        { last = $1 }
        END { if (last < 20) { print "only " last + 0 " lines"; bad = 1 } exit bad }' || return 1
    log_odd=$(grep -vc 'line [0-9]*$' /tmp/log)
    [ "$log_odd" = 0 ] || { echo "$log_odd lines are not the counter's"; grep -v 'line [0-9]*$' /tmp/log | tail -n 3; return 1; }
}

# Enables controllers from the folder TOP down to the groups of the services and gives one of them limits, as an operator may by hand. From
# then on no process may be put into the groups in between: whoever starts the next agent must not want to.
enable_controllers() {
    enable_group=$(group_of "$(instances limited | head -n 1)")
    enable_folders=
    enable_folder=${enable_group%/*}
    while :; do
        enable_folders="$enable_folder $enable_folders"
        [ "$enable_folder" != "$1" ] || break
        case $enable_folder in /sys/fs/cgroup/*) ;; *) echo "$enable_group is not below $1"; return 1 ;; esac
        enable_folder=${enable_folder%/*}
    done
    for enable_folder in $enable_folders; do
        echo "+cpu +memory +pids" >"$enable_folder/cgroup.subtree_control" || { echo "refused in $enable_folder"; return 1; }
    done
    echo 67108864 >"$enable_group/memory.max" && echo 1 >"$enable_group/memory.oom.group" && echo 30 >"$enable_group/pids.max"
}

# The kernel holds the limits of the running process: limit_is FILE VALUE.
limit_is() {
    limit_file=$(group_of "$(instances limited | head -n 1)")/$1
    [ "$(cat "$limit_file")" = "$2" ] || { echo "$limit_file: $(cat "$limit_file" 2>&1)"; return 1; }
}

# An adopted process is no child of the new agent: its exit code is known from kernel 6.15 on; before it is the right one or none, never another.
adopted_exit_is_told() {
    adopted_restarts=$(field leaver restarts)
    touch /tmp/leave
    within 20 restarts_over leaver "$adopted_restarts" || return 1
    adopted_code=$(field leaver code)
    adopted_minor=$(uname -r | awk -F. '{ print $1 * 1000 + $2 }')
    if [ "$adopted_minor" -ge 6015 ]; then
        [ "$adopted_code" = 7 ] || { echo "code $adopted_code"; return 1; }
    else
        # An older kernel tells it only as long as init has not reaped the process: the agent may be quick enough to see it, or not.
        case $adopted_code in null | 7) ;; *) echo "code $adopted_code"; return 1 ;; esac
    fi
}

child_exit_is_told() {
    child_restarts=$(field leaver restarts)
    within 20 state_is leaver ready || return 1
    touch /tmp/leave
    within 20 restarts_over leaver "$child_restarts" || return 1
    [ "$(field leaver code)" = 7 ] || { mainstay status leaver -o json; return 1; }
}

memory_limit_kills_one_service() {
    memory_restarts=$(field limited restarts)
    census | grep -v '^limited ' >/tmp/before
    touch /tmp/eat
    within 40 restarts_over limited "$memory_restarts" || return 1
    [ "$(field limited oom)" = true ] || { mainstay status limited -o json; return 1; }
    within 20 all_well || return 1
    census | grep -v '^limited ' >/tmp/after
    cmp /tmp/before /tmp/after
}

# Main, a child that ignores TERM and a grandchild in its own session: none is left.
stop_empties_the_tree() {
    stop_group=$(group_of "$(instances tree | head -n 1)")
    [ -n "$(instances grandchild)" ] || { echo "no grandchild to begin with"; return 1; }
    mainstay stop tree || return 1
    [ -z "$(instances tree)$(instances grandchild)" ] || { census; return 1; }
    [ ! -e "$stop_group" ] || [ -z "$(cat "$stop_group/cgroup.procs")" ] || { echo "$stop_group is not empty"; return 1; }
    state_is tree stopped
}

start_brings_it_back() {
    mainstay start tree || return 1
    within 10 once_each tree
}

# A moment's patience: a shell between fork and exec looks like a second one.
five_services_once_each() { within 10 once_each $services; }

status_names_the_processes() {
    census >/tmp/names
    for status_name in $services; do
        status_pid=$(field "$status_name" pid)
        grep -qx "$status_name $status_pid" /tmp/names || { echo "$status_name: agent says $status_pid"; cat /tmp/names; return 1; }
    done
}
