package spool

import (
	"io"
	"io/fs"
	"os"
)

// fileSystem is what a spool needs of the operating system. Tests put faults between.
type fileSystem interface {
	MkdirAll(dir string) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	Open(name string, flag int) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	SyncDir(dir string) error
}

// file is an open file; *os.File is one.
type file interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
}

// The ways in which files are opened.
const (
	readOnly  = os.O_RDONLY
	readWrite = os.O_RDWR // for Sync, which some systems refuse on a file that was opened to read
	createNew = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	overwrite = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
)

// operatingSystem is the real fileSystem.
type operatingSystem struct{}

// MkdirAll makes a directory and those above it.
func (operatingSystem) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o755) }

// ReadDir returns what a directory holds, by name.
func (operatingSystem) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// Stat describes a file.
func (operatingSystem) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// Rename renames a file, over another if there is one.
func (operatingSystem) Rename(from, to string) error { return os.Rename(from, to) }

// Remove removes a file.
func (operatingSystem) Remove(name string) error { return os.Remove(name) }

// Open opens a file in one of the ways above.
func (operatingSystem) Open(name string, flag int) (file, error) {
	f, err := os.OpenFile(name, flag, 0o644)
	if err != nil {
		return nil, err // not a file that holds a nil *os.File
	}
	return f, nil
}

// SyncDir makes durable which files a directory holds.
func (operatingSystem) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
