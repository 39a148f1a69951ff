// The home directory of a user, by the passwd file of the present root (passwd(5)).
#pragma once

#include <sys/types.h>

#include <string>

namespace bulkhead {

// "/" when there is no such file, no such user, or the entry names none. The file is an image's: it
// is read without waiting (it could be a fifo), up to 1 MiB, and trusted for nothing but this text.
std::string home_of(uid_t uid);

}  // namespace bulkhead
