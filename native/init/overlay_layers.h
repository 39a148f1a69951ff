// The layers of an overlay, seen through an id map (FsMount.uid_maps): overlayfs itself cannot be
// mounted with MOUNT_ATTR_IDMAP, what it is made of can (Linux 5.19), and takes it by descriptor
// (Linux 6.15).
#pragma once

#include <string>
#include <vector>

#include "init/context.h"

namespace bulkhead {

struct OverlayLayers {
  std::vector<UniqueFd> lower;
  // Two directories of one mount, as overlayfs wants them.
  UniqueFd upper, work;
  // Keeps the mount of both.
  UniqueFd upper_mount;
};

// Opens what lowerdir=, upperdir= and workdir= name. `context.slot` is not touched.
Outcome open_mapped_layers(Context& context, const FsMount& step, OverlayLayers& layers);

// All options; false with errno.
bool set_mapped_options(int fs, const FsMount& step, const OverlayLayers& layers);

// While it lives, files are made as who is 0 in the maps: overlayfs keeps the credentials of its
// creator, and the host's root does not exist in the layers' id map (EOVERFLOW). Capabilities stay,
// which setfsuid(2) would take.
class CreateAs {
 public:
  // nullptr: nothing changes.
  explicit CreateAs(const FsMount* step);
  ~CreateAs();
  CreateAs(const CreateAs&) = delete;
  CreateAs& operator=(const CreateAs&) = delete;

 private:
  bool active_;
};

}  // namespace bulkhead
