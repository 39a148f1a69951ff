import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pauseImage } from './image.ts';
import { prefix, runtime } from './paths.ts';

export interface CriOptions {
  /** Runtime of the handler named `test`; the one under test unless told. */
  runtime?: string;
  /** Lines of the handler's own table, TOML text. */
  handler?: string;
  /** Options table of the handler, TOML text. */
  options?: string;
}

interface ConfigInput {
  dir: string;
  version: '1.6' | '1.7' | '2';
  address: string;
  cri?: CriOptions | undefined;
  /** Image that those of the snapshotter "blockfile" begin as. */
  blockfile?: string | undefined;
}

/** The configuration of a containerd that shares nothing with the system's own. */
export const containerdConfig = (input: ConfigInput): string => {
  const { dir, version, address, cri, blockfile } = input;
  const two = version === '2';
  const disabled = cri ? [] : two ? ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime'] : [];
  // What we never use costs start time, and btrfs/zfs/devmapper log errors.
  disabled.push('io.containerd.internal.v1.restart', 'io.containerd.snapshotter.v1.devmapper');
  disabled.push('io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.btrfs');
  disabled.push('io.containerd.snapshotter.v1.aufs', 'io.containerd.tracing.processor.v1.otlp');
  if (!cri) disabled.push('io.containerd.grpc.v1.cri');
  if (two) disabled.push('io.containerd.nri.v1.nri');
  return `version = ${two ? 3 : 2}
root = "${dir}/root"
state = "${dir}/state"
disabled_plugins = [${disabled.map((name) => `"${name}"`).join(', ')}]
[grpc]
  address = "${address}"
[debug]
  level = "debug"
[plugins]
  [plugins."io.containerd.internal.v1.opt"]
    path = "${dir}/opt"
${blockfile === undefined ? '' : blockfileConfig(dir, blockfile)}${cri ? criConfig(dir, version, cri) : ''}`;
};

const blockfileConfig = (dir: string, scratch: string): string => `
  [plugins."io.containerd.snapshotter.v1.blockfile"]
    root_path = "${dir}/blockfile"
    scratch_file = "${scratch}"
    fs_type = "ext4"
    mount_options = ["loop"]
`;

const criConfig = (dir: string, version: '1.6' | '1.7' | '2', cri: CriOptions): string => {
  writeCni(dir);
  const name = cri.runtime ?? runtime;
  const { handler = '', options = '' } = cri;
  if (version === '2') {
    return `
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "${pauseImage}"
  [plugins."io.containerd.cri.v1.runtime"]
    restrict_oom_score_adj = true
    [plugins."io.containerd.cri.v1.runtime".cni]
      bin_dirs = ["/usr/lib/cni"]
      conf_dir = "${dir}/cni"
    [plugins."io.containerd.cri.v1.runtime".containerd]
      default_runtime_name = "test"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.test]
        runtime_type = "${name}"
        ${handler}
        [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.test.options]
          ${options}
`;
  }
  return `
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "${pauseImage}"
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "${dir}/cni"
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "test"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test]
        runtime_type = "${name}"
        ${handler}
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test.options]
          ${options}
`;
};

/** A bridge with host-local addresses; containerd lives in a network namespace of its own, so the host sees nothing. */
const writeCni = (dir: string): void => {
  mkdirSync(join(dir, 'cni'), { recursive: true });
  const conflist = {
    cniVersion: '0.4.0',
    name: 'bulkhead-test',
    plugins: [
      {
        type: 'bridge',
        bridge: 'bhtest0',
        isGateway: true,
        ipam: {
          type: 'host-local',
          dataDir: join(dir, 'ipam'),
          ranges: [[{ subnet: '10.231.0.0/16' }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
  writeFileSync(join(dir, 'cni/10-test.conflist'), JSON.stringify(conflist));
};

/** Where the installation under test keeps the parts beside its commands. */
export const libDir = join(prefix, 'lib/bulkhead');
