//! By setting: what a tenant may not set, in a statement or at startup.

use super::*;

#[test]
fn settings_that_print_plans_are_refused() {
    refused(
        EXPLAIN,
        &[
            "SET debug_print_plan = on",
            "SET LOCAL Debug_Print_Parse TO true",
            "SET SESSION \"debug_print_rewritten\" = on",
            "SET debug_print_raw_parse = on",
            "SET debug_pretty_print TO on",
            "SET auto_explain.log_min_duration = 0",
            "SET \"auto_explain\".log_analyze = on",
            "SET log_planner_stats = on",
            "SET log_executor_stats = on",
            "SET log_statement_stats = on",
            "SET trace_sort = on",
            "SELECT set_config('debug_print_plan', 'on', true)",
            "SELECT set_config('auto_explain.log_min_duration', $1, false)",
            "SELECT pg_catalog.\"set_config\"('Trace_Sort', $1, false)",
        ],
    );
    let all_but =
        |rule: &'static str| GRANTABLE.iter().copied().filter(|other| *other != rule).collect::<Vec<_>>();
    for text in [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET debug_print_plan = on AS 'SELECT 1'",
        "ALTER FUNCTION f() SET auto_explain.log_analyze TO on",
        "ALTER ROLE app SET debug_print_plan = on",
        "ALTER DATABASE d SET debug_print_plan = on",
        "ALTER SYSTEM SET debug_print_plan = on",
        "DO $$ BEGIN SET LOCAL debug_print_plan = on; END $$",
        "DO $$ BEGIN PERFORM set_config('debug_print_plan', 'on', true); END $$",
    ] {
        assert_eq!(judge_by(text.as_bytes(), &strict(&all_but(EXPLAIN))), EXPLAIN, "{text}");
        assert_eq!(judge_by(text.as_bytes(), &strict(GRANTABLE)), "pass", "{text}");
    }
    served(&[
        "RESET debug_print_plan",
        "SHOW debug_print_plan",
        "SET client_min_messages = log",
        "SELECT current_setting('debug_print_plan')",
        "SET app.debug_print_plan = on",
    ]);
}

#[test]
fn settings_of_the_planner_are_refused() {
    refused(
        PLANNER,
        &[
            "SET enable_seqscan = off",
            "SET LOCAL Enable_Nestloop TO off",
            "SET random_page_cost = 1e9",
            "SET cpu_tuple_cost = 0",
            "SET SESSION plan_cache_mode = force_generic_plan",
            "SET from_collapse_limit = 1",
            "SET join_collapse_limit = 100",
            "SET geqo = off",
            "SET geqo_threshold = 2",
            "SET jit_above_cost = 0",
            "SET jit_expressions = off",
            "SET cursor_tuple_fraction = 1",
            "SET constraint_exclusion = off",
            "SET force_parallel_mode = on",
            "SET debug_parallel_query = on",
            "SET min_parallel_table_scan_size = 0",
            "SET effective_cache_size = 1",
            "SELECT set_config('enable_indexscan', 'off', false)",
            "SELECT set_config('plan_cache_mode', $1, true)",
        ],
    );
    served(&[
        "RESET enable_seqscan",
        "RESET ALL",
        "SHOW random_page_cost",
        "SET work_mem = '64MB'",
        "SET LOCAL statement_timeout = 0",
        "SET max_parallel_workers_per_gather = 0",
        "SET vacuum_cost_delay = 1",
        "SET app.unit_cost = 1",
        "SET app.enable_x = on",
        // What asyncpg sends around its questions about types.
        "SET jit = off",
        "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
        "SELECT set_config('jit', $1, false)",
    ]);
}

#[test]
fn startup_parameters_follow_the_same_rules() {
    let rule = |name: &str, rules: &Rules| rules.check_parameter(name, "1").err().map(|refusal| refusal.rule);
    for (name, expected) in [
        ("debug_print_plan", Some(EXPLAIN)),
        ("auto_explain.log_analyze", Some(EXPLAIN)),
        ("Enable_SeqScan", Some(PLANNER)),
        ("jit", None),
        ("work_mem", None),
        ("app.tenant_id", None),
    ] {
        assert_eq!(rule(name, &strict(&[])), expected, "{name}");
        assert_eq!(rule(name, &strict(&[EXPLAIN, PLANNER])), None, "{name}");
        for level in [GuardLevel::Off, GuardLevel::Context] {
            assert_eq!(rule(name, &Rules::new("app.tenant_id", level, &[])), None, "{name}");
        }
    }
}
