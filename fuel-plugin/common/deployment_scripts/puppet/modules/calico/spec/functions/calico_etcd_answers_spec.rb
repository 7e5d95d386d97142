require File.expand_path('../../environment', __FILE__)
require 'socket'

describe 'calico_etcd_answers' do
  # A listener that gives one answer to everybody, or none at all.
  def listener(answer)
    server = TCPServer.new('127.0.0.1', 0)
    thread = Thread.new do
      loop do
        client = server.accept
        next if answer.nil?
        client.readpartial(4096)
        client.write("HTTP/1.1 200 OK\r\nContent-Length: #{answer.length}\r\nConnection: close\r\n\r\n#{answer}")
        client.close
      end
    end
    yield "http://127.0.0.1:#{server.addr[1]}"
  ensure
    thread.kill
    server.close
  end

  def failure(urls)
    scope.call_function('calico_etcd_answers', [urls, {}, 1, 'node-4'])
    nil
  rescue Puppet::Error => error
    error.message
  end

  it 'is content with one endpoint that is healthy' do
    listener('{"health":"true"}') { |url| expect(failure(['http://127.0.0.1:1', url])).to be_nil }
  end

  it 'takes the health of older versions' do
    listener('{"health": true}') { |url| expect(failure([url])).to be_nil }
  end

  it 'fails when nobody listens, and names setting, node and cure' do
    expect(failure(['http://127.0.0.1:1'])).to match(/setting etcd_endpoints, node node-4: .*127\.0\.0\.1:1.*refused.*; cure: /)
  end

  it 'fails after the limit when somebody listens and says nothing' do
    listener(nil) do |url|
      started = Time.now
      expect(failure([url])).to include('no answer within 1 s')
      expect(Time.now - started).to be < 5
    end
  end

  it 'fails when it is not etcd, or not healthy' do
    listener('hello') { |url| expect(failure([url])).to include('not healthy or not etcd') }
    listener('{"health":"false"}') { |url| expect(failure([url])).to include('not healthy or not etcd') }
  end
end
