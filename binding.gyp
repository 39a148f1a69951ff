# addon.node: N-API bindings over native/core. Built by tools/build-native.mjs.
# Files named *_codec.cc use protozero, which throws; they alone are compiled with exceptions and let none out.
{
  'variables': {
    # "address,undefined" for tools/test-addon-asan.sh.
    'sanitize%': '',
  },
  'target_defaults': {
    'include_dirs': ['native'],
    'defines': ['_GNU_SOURCE'],
    'cflags': [
      '-fPIC', '-Wall', '-Wextra', '-Wno-unused-parameter', '-Wno-cast-function-type', '-Werror',
    ],
    'cflags_cc!': ['-std=gnu++17', '-std=gnu++20'],
    'cflags_cc': ['-std=c++20'],
    'conditions': [
      ['sanitize!=""', {
        'cflags': ['-fsanitize=<(sanitize)', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer', '-g', '-O1'],
        'ldflags': ['-fsanitize=<(sanitize)'],
      }],
    ],
  },
  'targets': [
    {
      'target_name': 'codec',
      'type': 'static_library',
      'cflags!': ['-fno-exceptions'],
      'cflags_cc!': ['-fno-exceptions'],
      'cflags_cc': ['-fexceptions'],
      'sources': ['native/addon/plan_codec.cc', 'native/core/init_codec.cc'],
    },
    {
      'target_name': 'addon',
      'dependencies': [
        'codec',
        "<!(node -p \"require('node-addon-api').targets\"):node_addon_api",
      ],
      'defines': ['NAPI_VERSION=9', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS'],
      'cflags_cc': ['-fvisibility=hidden'],
      'ldflags': ['-Wl,--gc-sections', '-Wl,--exclude-libs,ALL'],
      'libraries': ['<!(node tools/find-libseccomp.mjs)'],
      'sources': [
        'native/addon/addon.cc',
        'native/addon/arguments.cc',
        'native/addon/cgroup.cc',
        'native/addon/files.cc',
        'native/addon/launch.cc',
        'native/addon/network.cc',
        'native/addon/lend.cc',
        'native/addon/mapped.cc',
        'native/addon/memory.cc',
        'native/addon/poll.cc',
        'native/addon/process.cc',
        'native/addon/seccomp.cc',
        'native/addon/sockets.cc',
        'native/addon/terminal.cc',
        'native/addon/vsock.cc',
        'native/core/bpf_device.cc',
        'native/core/bpf_socket.cc',
        'native/core/init_event.cc',
        'native/core/launch.cc',
        'native/core/net_change.cc',
        'native/core/net_tables.cc',
        'native/core/netlink.cc',
        'native/core/open_init.cc',
        'native/core/pidfd.cc',
        'native/core/seccomp_compile.cc',
        'native/core/seccomp_join.cc',
        'native/core/slow_close.cc',
        'native/core/vsock.cc',
      ],
    },
    {
      # Loads a compiled program in a child for each check; used by src/native/seccomp.kernel.test.ts.
      'target_name': 'seccomp-probe',
      'type': 'executable',
      'ldflags': ['-static'],
      'cflags!': ['-fsanitize=<(sanitize)'],
      'ldflags!': ['-fsanitize=<(sanitize)'],
      'sources': ['native/addon/test/seccomp_probe.cc'],
    },
  ],
}
