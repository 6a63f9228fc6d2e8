// Checkpoint: one model in one or more safetensors files.
#include "reference/error.hpp"
#include "reference/json.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"
#include "reference/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <system_error>

namespace dsv4::reference {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::size_t kMaxIndexBytes = 256 << 20;

// Index file -> shard of every tensor, in the index's folder.
std::map<std::string, std::string> parse_index(const fs::path& path) {
  const std::string name = printable_path(path);
  const json index = parse_json(read_text(path, kMaxIndexBytes), name);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object())
    throw InputError(fmt::format("{}: must be a JSON object with an object 'weight_map'", name));
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      throw InputError(fmt::format("{}: tensor '{}': shard must be a string, got {}", name, printable(tensor),
                                   quoted_json(shard)));
    const std::string& file = shard.get_ref<const std::string&>();
    const fs::path relative(file);
    const bool inside = !file.empty() && file.find('\0') == file.npos && relative.is_relative() &&
                        std::find(relative.begin(), relative.end(), "..") == relative.end();
    if (!inside)
      throw InputError(fmt::format("{}: tensor '{}': shard '{}' is not a file inside the folder", name,
                                   printable(tensor), printable(file)));
    shards.emplace(tensor, file);
  }
  if (shards.empty()) throw InputError(fmt::format("{}: 'weight_map' names no tensor", name));
  return shards;
}

// Names of regular files in `folder` that end in `suffix`, sorted.
std::vector<std::string> files_ending_in(const fs::path& folder, std::string_view suffix) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().native();
    if (name.ends_with(suffix) && !name.starts_with('.')) names.push_back(name);
  }
  if (error) throw InputError(fmt::format("{}: cannot list: {}", printable_path(folder), error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& path) {
  const std::string name = printable_path(path);
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  fs::path folder = is_folder ? path : path.parent_path();
  if (folder.empty()) folder = ".";

  fs::path index;
  if (!is_folder && path.extension() == ".json") {
    index = path;
  } else if (is_folder) {
    constexpr char kUsual[] = "model.safetensors.index.json";
    const auto indices = files_ending_in(path, ".index.json");
    if (std::find(indices.begin(), indices.end(), kUsual) != indices.end()) {
      index = path / kUsual;
    } else if (indices.size() == 1) {
      index = path / indices.front();
    } else if (indices.size() > 1) {
      throw InputError(fmt::format("{}: {} index files ('{}', '{}', ...): name the one to use", name,
                                   indices.size(), printable(indices[0]), printable(indices[1])));
    }
  }

  std::vector<SafetensorsFile> files;
  if (!index.empty()) {
    const auto shards = parse_index(index);
    std::map<std::string, std::size_t> opened;
    for (const auto& [tensor, shard] : shards) {
      if (opened.contains(shard)) continue;
      const fs::path file = folder / shard;
      if (!fs::exists(file, error))
        throw InputError(fmt::format("{}: tensor '{}': shard '{}' does not exist", printable_path(index),
                                     printable(tensor), printable(shard)));
      opened.emplace(shard, files.size());
      files.push_back(SafetensorsFile::open(file));
    }
    for (const auto& [tensor, shard] : shards)
      if (files[opened.at(shard)].find(tensor) == nullptr)
        throw InputError(fmt::format("{}: tensor '{}' is not in its shard '{}'", printable_path(index),
                                     printable(tensor), printable(shard)));
  } else if (is_folder) {
    for (const std::string& shard : files_ending_in(path, ".safetensors"))
      files.push_back(SafetensorsFile::open(path / shard));
    if (files.empty()) throw InputError(fmt::format("{}: no .safetensors file in the folder", name));
  } else {
    files.push_back(SafetensorsFile::open(path));
  }
  Checkpoint checkpoint = of(std::move(files), name);
  checkpoint.folder_ = std::move(folder);
  return checkpoint;
}

Checkpoint Checkpoint::of(std::vector<SafetensorsFile> files, const std::string& name) {
  Checkpoint checkpoint;
  checkpoint.name_ = name;
  checkpoint.files_ = std::move(files);
  for (const SafetensorsFile& file : checkpoint.files_)
    for (const StoredTensor& tensor : file.tensors()) {
      const auto [it, fresh] = checkpoint.index_.emplace(tensor.name, &tensor);
      if (!fresh) throw InputError(fmt::format("{}: is in {} too", where(tensor), *it->second->file));
      checkpoint.tensors_.push_back(&tensor);
    }
  return checkpoint;
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : it->second;
}

const std::string* Checkpoint::metadata(const std::string& key) const {
  const SafetensorsFile* owner = nullptr;
  const std::string* value = nullptr;
  for (const SafetensorsFile& file : files_) {
    const auto it = file.metadata().find(key);
    if (it == file.metadata().end()) continue;
    if (value != nullptr && *value != it->second)
      throw InputError(fmt::format("{}: {} '{}' differs from that of {}", file.name(), kMetadataKey,
                                   printable(key), owner->name()));
    if (value == nullptr) owner = &file, value = &it->second;
  }
  return value;
}

}  // namespace dsv4::reference
