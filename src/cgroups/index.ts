/**
 * Control groups. Making them is part of the launch plan (plan.ts, pure); everything later (update, pause, kill, stats,
 * removal) works on the directories that a `CgroupView` names.
 */
export { cgroupLayout, hostRoots, parseLayout, readLayout } from './host.ts';
export type { CgroupLayout, CgroupMode, Hierarchy, HostRoots, UnifiedHierarchy } from './host.ts';
export { locateCgroup, parseCgroupsPath, pathsOfView, viewOfPaths } from './path.ts';
export type { CgroupDriver, CgroupLocation, CgroupView } from './path.ts';
export { contributeCgroups, execJoinSteps, joinSteps } from './plan.ts';
export type { CgroupContribution, CgroupOptions } from './plan.ts';
export { makeHelperCgroup } from './helper_cgroup.ts';
export { restoringValue } from './restore.ts';
export { applyResources } from './update.ts';
export { freezeCgroup, isFrozen, thawCgroup } from './freeze.ts';
export { killCgroup } from './kill.ts';
export { checkUnoccupied } from './occupied.ts';
export { containerPids } from './pids.ts';
export { removeCgroups } from './remove.ts';
export { watchOom, type OomAddon, type OomWatch } from './oom.ts';
export { readMetrics, type ContainerMetrics } from './stats.ts';
export type { MetricsV1 } from './stats_v1.ts';
export { metricsFilesV2, readMetricsV2, type MetricsV2 } from './stats_v2.ts';
export { resourceSettings, type PlacedSetting } from './settings.ts';
export { subCgroupView } from './sub_cgroup.ts';
