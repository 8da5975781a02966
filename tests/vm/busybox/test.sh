#!/bin/sh
# A kernel with every controller, no systemd: the agent owns /sys/fs/cgroup/mainstay, busybox init respawns it.
. /vm/lib.sh

say "kernel $(uname -r), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"

# For the console: what the agent said.
last_words() { tail -n 60 /var/log/agent.log; }

stops_everything() {
    touch /run/no-agent
    stops_pid=$(agent_pid)
    kill -TERM "$stops_pid"
    within 40 test ! -e "/proc/$stops_pid/status" || return 1
    none_left || return 1
    # No group below ours holds a process, the roles' included.
    stops_left=$(find /sys/fs/cgroup/mainstay -name cgroup.procs -exec cat {} + 2>/dev/null)
    [ -z "$stops_left" ] || { echo "processes left: $stops_left"; return 1; }
    ! grep -l '/usr/bin/[m]ainstay' /proc/[0-9]*/cmdline 2>/dev/null
}

starts_again() {
    rm /run/no-agent
    within 60 all_well && five_services_once_each
}

# QUIT: the agent leaves, everything else goes on.
quit_leaves_the_services() {
    census >/tmp/before
    quit_old=$(agent_pid)
    kill -QUIT "$quit_old"
    within 40 another_agent "$quit_old" || return 1
    census >/tmp/after
    cmp /tmp/before /tmp/after
}

# The boot id is the same, every process is gone: what the dead agent recorded must not be taken for something that runs.
all_killed_while_away() {
    touch /run/no-agent
    kill -9 "$(agent_pid)"
    for killed_pid in $(census | cut -d' ' -f2); do kill -9 "$killed_pid"; done
    within 10 none_left || return 1
    rm /run/no-agent
    within 60 all_well && five_services_once_each
}

must "the agent comes up and all is well" within 60 all_well
must "five services run, once each" five_services_once_each
check "status names their processes" status_names_the_processes
check "controllers can be enabled for the groups" enable_controllers /sys/fs/cgroup
check "the exit code of a child is told" child_exit_is_told
check "20 kills of the agent: same processes, none twice" kill_agent 20
check "10 kills without a pause" kill_agent_at_once
check "limits outlive the agent" limit_is memory.max 67108864
check "no line of the log is lost" log_is_complete
check "the exit of an adopted process" adopted_exit_is_told
check "memory.max kills one service, which comes back" memory_limit_kills_one_service
check "stop empties the whole tree" stop_empties_the_tree
check "start brings it back" start_brings_it_back
check "QUIT leaves the services to the next agent" quit_leaves_the_services
check "everything killed while the agent was away comes back" all_killed_while_away
check "TERM stops everything" stops_everything
check "and all starts again" starts_again
finish
